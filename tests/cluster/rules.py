"""What must hold for the files in ``cluster/``: each function gives the faults that it finds, as text."""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.helpers.commands import ROOT

CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
IN_IMAGE = "/opt/drel/"
"""Where the image keeps the repository."""
Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [found for found in yaml.load_all(path.read_text("utf-8"), yaml.CSafeLoader) if found]


def ray_documents() -> list[Document]:
    """RayCluster, RayJob and RayService of the repository."""
    return [
        found
        for path in sorted(KUBERAY.glob("ray*.yaml"))
        for found in documents(path)
        if found["apiVersion"].startswith("ray.io/")
    ]


def walk(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside, with its place."""
    yield at, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from walk(inner, f"{at}[{place}]")


def cluster_spec(document: Document) -> Document:
    spec: Document = document["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pods(document: Document) -> list[tuple[str, Document]]:
    """The pod templates of a Ray resource, with their place."""
    spec = cluster_spec(document)
    found = [("head", spec["headGroupSpec"]["template"])]
    found += [(group["groupName"], group["template"]) for group in spec["workerGroupSpecs"]]
    if "submitterPodTemplate" in document["spec"]:
        found.append(("submitter", document["spec"]["submitterPodTemplate"]))
    return found


# Schemas


def strict(schema: Any) -> Any:
    """A CRD's schema, with fields that it does not know refused: Kubernetes would drop them unseen."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        made.setdefault("additionalProperties", False)
    return made


def crd_schema(definition: Document, version: str) -> Document:
    found = next(v for v in definition["spec"]["versions"] if v["name"] == version)
    schema: Document = strict(found["schema"]["openAPIV3Schema"])
    return schema


def schema_faults(document: Document, schema: Document) -> list[str]:
    errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]


# Pods


def pod_faults(place: str, template: Document) -> list[str]:
    """Restricted as the Pod Security Standards say, with a root file system that cannot be written to."""
    spec, faults = template["spec"], []
    pod = spec.get("securityContext", {})
    if pod.get("runAsNonRoot") is not True or not pod.get("runAsUser"):
        faults.append(f"{place}: runs as root, or as whatever the image says")
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        faults.append(f"{place}: seccomp is not RuntimeDefault")
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            faults.append(f"{place}: {name}")
    if place != "head" and spec.get("automountServiceAccountToken") is not False:
        faults.append(f"{place}: gets a token of the Kubernetes API that it does not need")
    writable = {
        volume["name"]
        for volume in spec.get("volumes", [])
        if volume.get("emptyDir", {}).get("sizeLimit")
    }
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            faults.append(f"{place}: mounts the host's {volume['hostPath']}")
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        faults += container_faults(f"{place}/{container['name']}", container, writable)
    return faults


def container_faults(place: str, container: Document, writable: set[str]) -> list[str]:
    faults = security_faults(place, container.get("securityContext", {}))
    tmp = [m for m in container.get("volumeMounts", []) if m["mountPath"] == "/tmp"]
    if len(tmp) != 1 or tmp[0]["name"] not in writable:
        faults.append(
            f"{place}: /tmp is no emptyDir with a sizeLimit, and nothing else is writable"
        )
    faults += resource_faults(place, container.get("resources", {}))
    return faults


def security_faults(place: str, context: Document) -> list[str]:
    faults = []
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        faults.append(f"{place}: may gain privileges")
    if context.get("readOnlyRootFilesystem") is not True:
        faults.append(f"{place}: its root file system can be written to")
    if context.get("capabilities") != {"drop": ["ALL"]}:
        faults.append(f"{place}: keeps capabilities")
    return faults


def resource_faults(place: str, resources: Document) -> list[str]:
    faults = [
        f"{place}: {kind} of {what} missing"
        for kind in ("requests", "limits")
        for what in ("cpu", "memory")
        if what not in resources.get(kind, {})
    ]
    if resources.get("requests", {}).get("memory") != resources.get("limits", {}).get(
        "memory"
    ) and ("submitter" not in place):
        faults.append(f"{place}: memory asked for is not the limit; Ray believes the limit")
    return faults


def ray_faults(document: Document) -> list[str]:
    """What this project wants of a Ray cluster in Kubernetes."""
    spec, faults = cluster_spec(document), []
    options = spec.get("autoscalerOptions", {})
    if not spec.get("enableInTreeAutoscaling") or options.get("version") != "v2":
        faults.append("autoscaler v2 is off")
    faults += security_faults("autoscaler", options.get("securityContext", {}))
    if {"name": "tmp", "mountPath": "/tmp"} not in options.get("volumeMounts", []):
        faults.append("autoscaler: no /tmp to write to")
    faults += resource_faults("autoscaler", options.get("resources", {}))
    if spec.get("authOptions") != {"mode": "token", "secretName": "drel-ray-token"}:
        faults.append("Ray asks for no token, or for one of no secret")
    if spec["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        faults.append("head: takes work")
    for group in spec["workerGroupSpecs"]:
        template = group["template"]["spec"]
        hook = template["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {})
        command = hook.get("command", [""])
        if not command[0].endswith("/drain.sh"):
            faults.append(f"{group['groupName']}: leaves without telling Ray")
        elif int(command[-1]) >= template.get("terminationGracePeriodSeconds", 30):
            faults.append(f"{group['groupName']}: is killed before {command[-1]} s of draining end")
        gpu = "nvidia.com/gpu" in template["containers"][0]["resources"].get("limits", {})
        keys = {toleration["key"] for toleration in template.get("tolerations", [])}
        if gpu and not {"nvidia.com/gpu", "karpenter.sh/capacity-type"} <= keys:
            faults.append(f"{group['groupName']}: does not tolerate the taints of spot GPU nodes")
    return faults


# Secrets

_SECRET_NAME = re.compile(r"token|secret|password|passwd|credential|api_?key|access_?key", re.I)
_SECRET_VALUE = re.compile(
    r"\bAKIA[0-9A-Z]{16}\b|-----BEGIN|\b(?=[0-9a-zA-Z+/]*\d)(?=[0-9a-zA-Z+/]*[a-zA-Z])[0-9a-zA-Z+/]{32,}={0,2}"
)
_NOT_ONE = {"automountServiceAccountToken", "secretName", "secretRef", "secretKeyRef", "HttpTokens"}


def secret_faults(document: Document) -> list[str]:
    """Secrets written out: a Secret, an environment variable with its value, or what looks like a key."""
    faults = ["a Secret is in the repository"] if document.get("kind") == "Secret" else []
    for at, value in walk(document):
        last = re.split(r"[.\[]", at)[-1]
        if isinstance(value, dict) and _SECRET_NAME.search(str(value.get("name", ""))):
            if value.get("value"):
                faults.append(f"{at}: {value['name']} is written out")
        elif isinstance(value, str):
            if _SECRET_VALUE.search(value):
                faults.append(f"{at}: looks like a secret")
            elif (
                _SECRET_NAME.search(last)
                and last not in _NOT_ONE
                and not re.fullmatch(r"[~./\w-]*auth_token|drel-[\w-]+", value)
            ):
                faults.append(f"{at}: is written out")
    return faults


def secrets_named(document: Document) -> set[str]:
    found = set()
    for at, value in walk(document):
        if isinstance(value, dict) and at.endswith(("secretRef", "secretKeyRef")):
            found.add(value["name"])
        elif at.endswith("authOptions.secretName"):
            found.add(value)
    return found


# Dockerfile


def instructions(text: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of a Dockerfile, continued lines joined, comments left out."""
    joined = re.sub(
        r"\\\n",
        " ",
        "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")),
    )
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.strip().partition(" ") for line in joined.splitlines())
        if word
    ]


def left_out(path: str, patterns: list[str]) -> bool:
    """Whether ``.dockerignore`` keeps a path from the builder: the last pattern that fits decides."""
    out = False
    for pattern in patterns:
        plain = pattern.lstrip("!").rstrip("/")
        parts = path.split("/")
        heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if any(
            fnmatch.fnmatchcase(head, plain) and head.count("/") == plain.count("/")
            for head in heads
        ):
            out = not pattern.startswith("!")
    return out


def dockerfile_faults(text: str, ignore: str) -> list[str]:
    faults, user, stage = [], "root", 0
    patterns = [line.strip() for line in ignore.splitlines() if line.strip() and line[0] != "#"]
    args = dict(
        rest.split("=", 1) for word, rest in instructions(text) if word == "ARG" and "=" in rest
    )
    known = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "LABEL", "USER", "CMD"}
    for word, rest in instructions(text):
        if word not in known:
            faults.append(f"{word}: not used here, or misspelt")
        elif word == "FROM":
            stage, user = stage + 1, "root"
            image = re.sub(r"\$\{(\w+)\}", lambda m: args.get(m[1], ""), rest.split()[0])
            if not re.search(r":[\w.-]+$", image) or image.endswith(":latest"):
                faults.append(f"FROM {image}: no version")
        elif word == "USER":
            user = rest
        elif word == "COPY" and not rest.startswith("--from="):
            for source in shlex.split(rest)[:-1]:
                if not (ROOT / source).exists():
                    faults.append(f"COPY {source}: not in the repository")
                elif left_out(source, patterns):
                    faults.append(f"COPY {source}: left out by .dockerignore")
        elif word in ("ENV", "ARG"):
            for name in re.findall(r"(\w+)=", rest):
                if _SECRET_NAME.search(name):
                    faults.append(f"{word} {name}: a secret would stay in the image")
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user):
        faults.append(
            f"USER {user}: must be a number other than 0, or Kubernetes cannot tell that it is not root"
        )
    return faults


def copied(text: str) -> set[str]:
    """What of the repository lies below ``/opt/drel`` in the image."""
    found: set[str] = set()
    where = ""
    for word, rest in instructions(text):
        if word == "FROM":
            found, where = set(), ""
        elif word == "WORKDIR":
            where = rest
        elif word == "COPY" and not rest.startswith("--from=") and where == IN_IMAGE.rstrip("/"):
            source, target = shlex.split(rest)
            assert target.removeprefix("./") == source, f"COPY {rest}: another name in the image"
            found.add(source)
    return found


def image_path_faults(command: str, inside: set[str]) -> list[str]:
    """Scripts and modules that a command names are in the repository and in the image."""
    faults, words = [], shlex.split(command)
    for place, word in enumerate(words):
        if word.startswith(IN_IMAGE):
            name = word.removeprefix(IN_IMAGE)
            if not (ROOT / name).is_file() or not (ROOT / name).stat().st_mode & 0o100:
                faults.append(f"{word}: no such script")
            elif not any(name == entry or name.startswith(f"{entry}/") for entry in inside):
                faults.append(f"{word}: not copied into the image")
        elif word == "-m" and words[place - 1].startswith("python"):
            module = words[place + 1]
            if not (ROOT / f"{module.replace('.', '/')}.py").is_file():
                faults.append(f"{module}: no such module")
            elif module.split(".")[0] not in inside:
                faults.append(f"{module}: not copied into the image")
    return faults
