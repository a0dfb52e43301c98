// Pictures of training, where the scorer shows them.
import { element } from "./dom.js";
import { askBlob } from "./scorer.js";

/** A picture of training by its image_id; it takes itself away where there is none. */
export function picture(imageId, { title = imageId, alt = imageId } = {}) {
  const image = element("img", { alt, title });
  askBlob(`v1/pictures?image_id=${encodeURIComponent(imageId)}`).then((blob) => {
    image.src = URL.createObjectURL(blob);
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  }, () => image.remove());
  return image;
}

/** A row of them. */
export function strip(label, ...pictures) {
  return element("div", { class: "strip", role: "group", "aria-label": label }, ...pictures);
}
