"""The features of a request that is about one image: as numbers, by columns, or made of a picture."""

from __future__ import annotations

import numpy as np

from distributed.serving.model import ServedModel
from distributed.serving.requests import decode_one, feature_rows, named_rows
from distributed.serving.schemas import ApiError, OneRow
from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture


def row_of(given: OneRow, model: ServedModel) -> np.ndarray:
    """float32 ``[D]``.

    Raises:
        ApiError: 422, it gives neither or both, or what does not fit the model.
    """
    if (given.features is None) == (given.image is None):
        raise ApiError(422, "invalid_request", "give either features or image")
    if isinstance(given.features, dict):
        named = {name: [row] for name, row in given.features.items()}
        return named_rows(named, model.blocks)[0]
    if given.features is not None:
        return feature_rows([given.features], model.image_dim)[0]
    assert given.image is not None
    try:
        return model.features_of([decode_one(given.image, "image")])[0]
    except BadPicture as error:
        raise ApiError(422, "bad_picture", f"image: {error}") from None
    except InputError as error:
        raise ApiError(422, "no_images", str(error)) from None
