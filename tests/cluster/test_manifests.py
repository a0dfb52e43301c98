"""The files in ``cluster/`` fit the schemas they are for, the repository, and each other."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import jsonschema
import pytest
import yaml
from pydantic import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from distributed.serving.config import ScorerConfig
from distributed.serving.ingress import settings
from jobs.train import parse
from tests.cluster.rules import (
    CLUSTER,
    IN_IMAGE,
    KUBERAY,
    cluster_spec,
    copied,
    crd_schema,
    dockerfile_faults,
    documents,
    image_path_faults,
    instructions,
    pod_faults,
    pods,
    ray_documents,
    ray_faults,
    schema_faults,
    secret_faults,
    secrets_named,
    walk,
)
from tests.helpers.commands import ROOT

RAY = ray_documents()
DOCKERFILE = (CLUSTER / "Dockerfile").read_text("utf-8")
IGNORED = (ROOT / ".dockerignore").read_text("utf-8")
README = (CLUSTER / "README.md").read_text("utf-8")
EVERY = [*sorted(KUBERAY.glob("*.yaml")), CLUSTER / "aws.yaml", CLUSTER / "serve.yaml"]


def named(kind: str) -> dict[str, Any]:
    return copy.deepcopy(next(found for found in RAY if found["kind"] == kind))


def launcher() -> dict[str, Any]:
    return documents(CLUSTER / "aws.yaml")[0]


def pinned(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines)[package]


def test_all_three_kinds_are_here() -> None:
    assert {found["kind"] for found in RAY} == {"RayCluster", "RayJob", "RayService"}


# Versions and images


def test_one_version_of_ray() -> None:
    version = pinned("ray")
    for found in RAY:
        assert cluster_spec(found)["rayVersion"] == version, found["kind"]
    told = re.compile(r"(?i)ray[\s=_\w\"'.-]{0,12}?\b(\d+\.\d+\.\d+)\b")
    for path in [*sorted(CLUSTER.rglob("*.*")), CLUSTER / "Dockerfile"]:
        for other in told.findall(path.read_text("utf-8")):
            assert other == version, f"{path.name} names Ray {other}"
    args = [rest for word, rest in instructions(DOCKERFILE) if word == "ARG" and "RAY" in rest]
    assert args == [f"RAY_VERSION={version}"] * 2


def test_python_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    args = dict(
        rest.split("=", 1) for w, rest in instructions(DOCKERFILE) if w == "ARG" and "=" in rest
    )
    assert args["PYTHON_VERSION"] == project["tool"]["mypy"]["python_version"]
    assert project["project"]["requires-python"] == f">={args['PYTHON_VERSION']}"


def test_images_are_named_in_one_place() -> None:
    """The manifests say drel-cpu and drel-cuda; kustomization.yaml says what these are."""
    images = {
        entry["name"]: f"{entry['newName']}:{entry['newTag']}"
        for entry in documents(KUBERAY / "kustomization.yaml")[0]["images"]
    }
    assert set(images) == {"drel-cpu", "drel-cuda"}
    for found in RAY:
        used = {value for at, value in walk(found) if at.endswith(".image")}
        assert used <= set(images), found["kind"]
    config = launcher()
    assert config["docker"]["head_image"] == images["drel-cpu"]
    assert config["docker"]["worker_image"] == images["drel-cuda"]
    kinds = config["available_node_types"]
    assert kinds["cpu"]["docker"]["worker_image"] == images["drel-cpu"]
    for name, image in images.items():
        tag = image.rpartition(":")[2]
        assert tag.endswith(f"-ray{pinned('ray')}-{name.removeprefix('drel-')}")
        assert tag in DOCKERFILE and tag in README


def test_gpu_workers_have_the_cuda_image() -> None:
    for found in RAY:
        for place, template in pods(found):
            container = template["spec"]["containers"][0]
            gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert (container["image"] == "drel-cuda") == gpu, (found["kind"], place)


def test_kustomize_puts_the_images_in() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here")
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERAY)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = list(yaml.load_all(done.stdout, yaml.CSafeLoader))
    plain = [found for path in sorted(KUBERAY.glob("[!k]*.yaml")) for found in documents(path)]
    assert len(made) == len(plain)
    images = [value for found in made for at, value in walk(found) if at.endswith(".image")]
    assert len(images) == 8 and all(":0.1.0-ray" in image for image in images)
    assert {found["metadata"].get("namespace", "drel") for found in made} == {"drel"}
    for found in made:
        assert found["metadata"]["labels"]["app.kubernetes.io/component"] in README


# Schemas


@pytest.fixture(scope="module")
def schemas(shared_data: Path) -> dict[str, dict[str, Any]]:
    """By kind: the OpenAPI schemas of KubeRay's resources."""
    folder = shared_data / "kuberay-crds"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: KubeRay's resource definitions are not here")
    found = [documents(path)[0] for path in sorted(folder.glob("*.yaml"))]
    return {each["spec"]["names"]["kind"]: crd_schema(each, "v1") for each in found}


def test_kuberay_resources_fit_their_schemas(schemas: dict[str, dict[str, Any]]) -> None:
    assert set(schemas) >= {"RayCluster", "RayJob", "RayService"}
    for found in RAY:
        assert schema_faults(found, schemas[found["kind"]]) == [], found["kind"]


def test_the_network_policy_fits_the_rules_that_kuberay_knows(
    schemas: dict[str, dict[str, Any]],
) -> None:
    """KubeRay's schema holds that of an ingress rule; there is no other copy of it at hand."""
    spec = schemas["RayCluster"]["properties"]["spec"]["properties"]["networkPolicy"]
    rules = spec["properties"]["head"]["properties"]["ingressRules"]
    policy = next(d for d in documents(KUBERAY / "settings.yaml") if d["kind"] == "NetworkPolicy")
    assert schema_faults(policy["spec"]["ingress"], rules) == []
    assert schema_faults([{"form": []}], rules)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("RayCluster", lambda d: d["spec"].update(rayVerison="2.60.0")),
        ("RayCluster", lambda d: d["spec"].pop("headGroupSpec")),
        ("RayCluster", lambda d: d["spec"]["autoscalerOptions"].update(version="v3")),
        ("RayCluster", lambda d: d["spec"]["authOptions"].update(mode="tokens")),
        ("RayCluster", lambda d: d["spec"]["workerGroupSpecs"][0].update(maxReplicas="8")),
        (
            "RayCluster",
            lambda d: d["spec"]["workerGroupSpecs"][1]["template"]["spec"]["tolerations"][0].update(
                effects="NoSchedule"
            ),
        ),
        ("RayJob", lambda d: d["spec"].update(backofLimit=3)),
        (
            "RayJob",
            lambda d: d["spec"]["submitterPodTemplate"]["spec"]["containers"][0][
                "securityContext"
            ].update(readOnlyRootFileSystem=True),
        ),
        ("RayService", lambda d: d["spec"].update(serveConfigV2={"applications": []})),
        (
            "RayService",
            lambda d: d["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"][
                "containers"
            ][0]["envFrom"][0]["configMapRef"].update(nam="x"),
        ),
    ],
)
def test_a_wrong_resource_does_not_fit(
    schemas: dict[str, dict[str, Any]], kind: str, change: Callable[[Any], Any]
) -> None:
    document = named(kind)
    change(document)
    assert schema_faults(document, schemas[kind])


def test_the_launcher_fits_rays_schema() -> None:
    config = prepare_config(launcher())
    validate_config(config)
    kinds = config["available_node_types"]
    assert kinds[config["head_node_type"]]["resources"] == {"CPU": 0}
    gpu = kinds["gpu_spot"]
    assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert gpu["min_workers"] == 0 < gpu["max_workers"] and gpu["resources"]["GPU"] == 1
    assert config["max_workers"] == sum(kinds[name]["max_workers"] for name in ("cpu", "gpu_spot"))
    assert not config["setup_commands"]  # Ray's default there installs another Ray


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(max_worker=3),
        lambda c: c.pop("provider"),
        lambda c: c.update(idle_timeout_minutes="5"),
        lambda c: c["docker"].update(images="x"),
        lambda c: c["available_node_types"]["cpu"].update(max=3),
        lambda c: c["available_node_types"]["gpu_spot"]["resources"].update(GPU=-1),
        lambda c: c["available_node_types"]["gpu_spot"].pop("node_config"),
    ],
)
def test_a_wrong_launcher_does_not_fit(change: Callable[[Any], Any]) -> None:
    config = launcher()
    change(config)
    with pytest.raises((jsonschema.ValidationError, KeyError)):
        validate_config(prepare_config(config))


def machine_faults(node_config: dict[str, Any]) -> str:
    """What EC2's own description of RunInstances does not allow."""
    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    given = {"MinCount": 1, "MaxCount": 1, **node_config}
    report: str = botocore.validate.ParamValidator().validate(given, shape).generate_report()
    unknown = set(given) - set(shape.members)
    return report + "".join(sorted(unknown))


def test_machines_are_what_ec2_takes() -> None:
    for name, kind in launcher()["available_node_types"].items():
        assert machine_faults(kind["node_config"]) == "", name
    assert machine_faults({"InstanceType": "m6i.xlarge", "InstanceMarketOption": {}})
    assert machine_faults({"InstanceMarketOptions": {"Markettype": "spot"}})


def serve_configs() -> dict[str, dict[str, Any]]:
    return {
        "serve.yaml": documents(CLUSTER / "serve.yaml")[0],
        "rayservice.yaml": yaml.safe_load(named("RayService")["spec"]["serveConfigV2"]),
    }


@pytest.mark.parametrize("name", ["serve.yaml", "rayservice.yaml"])
def test_serve_configs_fit_serves_schema_and_the_application(name: str) -> None:
    """Serve lets unknown fields pass, so these are looked for here."""
    config = serve_configs()[name]
    checked = ServeDeploySchema.model_validate(config)
    assert set(config) <= set(ServeDeploySchema.model_fields)
    (application,) = config["applications"]
    assert set(application) <= set(type(checked.applications[0]).model_fields)
    module, _, function = application["import_path"].partition(":")
    build = getattr(importlib.import_module(module), function)
    assert next(iter(inspect.signature(build).parameters.values())).annotation is ScorerConfig
    ScorerConfig.model_validate(application["args"])


def test_only_the_service_in_its_pod_listens_on_all_addresses() -> None:
    """Serve's own default for a config file is every address, so a config must say where."""
    configs = serve_configs()
    assert configs["serve.yaml"]["http_options"]["host"] == "127.0.0.1"
    assert configs["rayservice.yaml"]["http_options"]["host"] == "0.0.0.0"
    for name, config in configs.items():
        assert "host" in config["http_options"], name
    start = launcher()["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["applications"].append(c["applications"][0]),
        lambda c: c["applications"][0].update(import_path="distributed"),
        lambda c: c["http_options"].update(port="eight thousand"),
        lambda c: c.update(proxy_location="Everywhere"),
        lambda c: c["applications"][0]["args"].update(modle="x"),
        lambda c: c["applications"][0]["args"].update(replicas="many"),
        lambda c: c["applications"][0]["args"].pop("model"),
    ],
)
def test_a_wrong_serve_config_does_not_fit(change: Callable[[Any], Any]) -> None:
    config = copy.deepcopy(serve_configs()["serve.yaml"])
    change(config)
    with pytest.raises(ValidationError):
        ServeDeploySchema.model_validate(config)
        ScorerConfig.model_validate(config["applications"][0]["args"])


# Rules of this project


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob", "RayService"])
def test_pods_are_restricted_and_ray_asks_for_its_token(kind: str) -> None:
    document = named(kind)
    assert ray_faults(document) == []
    for place, template in pods(document):
        assert pod_faults(place, template) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["authOptions"].update(mode="disabled"),
        lambda d: d.pop("authOptions"),
        lambda d: d["autoscalerOptions"].update(version="v1"),
        lambda d: d["autoscalerOptions"].pop("securityContext"),
        lambda d: d["headGroupSpec"]["rayStartParams"].update({"num-cpus": "4"}),
        lambda d: d["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].pop("lifecycle"),
        lambda d: d["workerGroupSpecs"][0]["template"]["spec"].update(
            terminationGracePeriodSeconds=60
        ),
        lambda d: d["workerGroupSpecs"][1]["template"]["spec"].pop("tolerations"),
    ],
)
def test_a_careless_cluster_is_seen(change: Callable[[Any], Any]) -> None:
    document = named("RayCluster")
    change(document["spec"])
    assert ray_faults(document)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["securityContext"].update(runAsNonRoot=False),
        lambda p: p["securityContext"].update(runAsUser=0),
        lambda p: p["securityContext"].pop("seccompProfile"),
        lambda p: p.update(hostNetwork=True),
        lambda p: p.pop("automountServiceAccountToken"),
        lambda p: p["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
        lambda p: p["volumes"][0]["emptyDir"].pop("sizeLimit"),
        lambda p: p["containers"][0].pop("securityContext"),
        lambda p: p["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
        lambda p: p["containers"][0]["securityContext"].update(privileged=True),
        lambda p: p["containers"][0]["securityContext"].update(
            capabilities={"add": ["SYS_PTRACE"]}
        ),
        lambda p: p["containers"][0].update(volumeMounts=[]),
        lambda p: p["containers"][0]["resources"].pop("limits"),
        lambda p: p["containers"][0]["resources"]["requests"].update(memory="1Gi"),
        lambda p: p.update(initContainers=[{"name": "i", "image": "drel-cpu"}]),
    ],
)
def test_a_careless_pod_is_seen(change: Callable[[Any], Any]) -> None:
    place, template = pods(named("RayCluster"))[1]
    assert pod_faults(place, template) == []
    template = copy.deepcopy(template)
    change(template["spec"])
    assert pod_faults(place, template)


def test_what_resources_name_is_there() -> None:
    """ConfigMaps and accounts in these files; secrets in the commands of the README."""
    settings = documents(KUBERAY / "settings.yaml")
    maps = {
        document["metadata"]["name"]: document["data"]
        for document in [*settings, *documents(KUBERAY / "rayjob.yaml")]
        if document["kind"] == "ConfigMap"
    }
    accounts = {d["metadata"]["name"] for d in settings if d["kind"] == "ServiceAccount"}
    for found in RAY:
        for at, value in walk(found):
            if at.endswith("configMapRef") or (at.endswith(".configMap") and "name" in value):
                assert value["name"] in maps, f"{found['kind']}: {at}"
            if at.endswith("serviceAccountName"):
                assert value in accounts, f"{found['kind']}: {at}"
        for secret in secrets_named(found):
            assert f"create secret generic {secret}" in README, f"{found['kind']}: {secret}"
    assert {secret for found in RAY for secret in secrets_named(found)} == {
        "drel-ray-token",
        "drel-scorer-token",
        "drel-s3",
    }


def test_the_training_run_is_one_that_jobs_train_takes(tmp_path: Path) -> None:
    """The entry point's file is the ConfigMap's, mounted where the entry point looks for it."""
    job = named("RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "jobs.train"] and words[3] == "--config"
    folder, _, name = words[4].rpartition("/")
    head = pods(job)[0][1]["spec"]
    mount = next(m for m in head["containers"][0]["volumeMounts"] if m["mountPath"] == folder)
    volume = next(v for v in head["volumes"] if v["name"] == mount["name"])
    held = next(d for d in documents(KUBERAY / "rayjob.yaml") if d["kind"] == "ConfigMap")
    assert volume["configMap"]["name"] == held["metadata"]["name"]
    path = tmp_path / name
    path.write_text(held["data"][name], "utf-8")
    config, _, _ = parse(["--config", str(path)])
    assert config.data.train.startswith("s3://BUCKET/") and config.out == "s3://BUCKET/run"
    assert {c["applications"][0]["args"]["model"] for c in serve_configs().values()} == {config.out}
    path.write_text(held["data"][name].replace("workers", "wrokers"), "utf-8")
    with pytest.raises(SystemExit) as ended:
        parse(["--config", str(path)])
    assert ended.value.code == 2


def test_entry_points_and_scripts_are_in_the_repository_and_in_the_image() -> None:
    inside = copied(DOCKERFILE)
    assert inside >= {"drel_core", "distributed", "jobs"}
    commands = [named("RayJob")["spec"]["entrypoint"], *launcher()["worker_start_ray_commands"]]
    for found in RAY:
        for at, value in walk(found):
            if at.endswith("exec.command"):
                commands.append(" ".join(value))
    assert sum(IN_IMAGE in command for command in commands) == 5
    for command in commands:
        assert image_path_faults(command, inside) == [], command
    assert image_path_faults("python -m jobs.trian --config x", inside)
    assert image_path_faults("python -m benchmarks.ingest", inside)
    assert image_path_faults("/opt/drel/cluster/darin.sh 3", inside)
    assert image_path_faults("/opt/drel/cluster/aws.yaml 3", inside)
    for config in serve_configs().values():
        assert config["applications"][0]["import_path"].split(".")[0] in inside


# Secrets


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_no_secret_is_written_out(path: Path) -> None:
    for document in documents(path):
        assert secret_faults(document) == []


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Secret", "metadata": {"name": "x"}},
        {"env": [{"name": "RAY_AUTH_TOKEN", "value": "open sesame"}]},
        {"env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]},
        {"args": {"token": "hunter22"}},
        {"data": {"password": "hunter22"}},
        {"run": ["--key AKIAABCDEFGHIJKLMNOP"]},
        {"note": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY9"},
        {"pem": "-----BEGIN PRIVATE KEY-----"},
    ],
)
def test_a_secret_written_out_is_seen(document: dict[str, Any]) -> None:
    assert secret_faults(document)


# Dockerfile. No Docker daemon runs where these tests do: it is read, not built.


def test_the_dockerfile_fits_the_repository() -> None:
    assert dockerfile_faults(DOCKERFILE, IGNORED) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("USER 1000:1000", "USER root"),
        ("USER 1000:1000", "USER drel"),
        ("USER 1000:1000", ""),
        ("COPY jobs ./jobs", "COPY job ./job"),
        ("COPY jobs ./jobs", "COPY tests ./tests"),
        ("-slim-bookworm", ""),
        ("FROM python:${PYTHON_VERSION}-slim-bookworm", "FROM python"),
        ("WORKDIR /opt/drel", "WORKDRI /opt/drel"),
        ("ARG TORCH_INDEX=", "ARG PIP_TOKEN=\nARG TORCH_INDEX="),
    ],
)
def test_a_careless_dockerfile_is_seen(old: str, new: str) -> None:
    assert old in DOCKERFILE
    changed = DOCKERFILE.replace(old, new)
    faults = dockerfile_faults(changed, IGNORED)
    # Without its suffix the base is another image, but still one with a version.
    assert bool(faults) == (old != "-slim-bookworm"), faults


def test_nodes_start_the_ingress_that_the_scorer_has_elsewhere() -> None:
    """The image's variables are those of a local scorer; what they name is there, and may be run."""
    said = [
        pair.partition("=")[::2]
        for word, rest in instructions(DOCKERFILE)
        if word == "ENV"
        for pair in shlex.split(rest)
    ]
    serve = {name: value for name, value in said if name.startswith("RAY_SERVE_")}
    guard = "distributed/serving/haproxy_guard.py"
    assert serve == settings("/tmp/drel-ingress", f"/opt/drel/{guard}")
    assert os.access(ROOT / guard, os.X_OK)
    assert (ROOT / guard).read_text().startswith("#!/usr/bin/env python3\n")


def test_the_dockerfiles_own_python_works(tmp_path: Path) -> None:
    """The line that lists what to install, and the line that checks what came."""
    runs = [rest for word, rest in instructions(DOCKERFILE) if word == "RUN"]
    listing = re.search(r"python -c '(.*?)' > requirements", " ".join(runs))
    assert listing
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", listing[1]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    names = {re.split(r"[\[><=]", line)[0] for line in done.stdout.splitlines()}
    assert {"ray", "torch", "s3fs", "boto3"} <= names and "pytest" not in names
    check = re.search(r'python -c "(import boto3.*)"$', runs[2])
    assert check
    import torch

    device = "cpu" if torch.version.cuda is None else "cuda"
    code = check[1].replace("$DEVICE", device)
    right = code.replace("$RAY_VERSION", pinned("ray"))
    done = subprocess.run(
        [sys.executable, "-c", right], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AssertionError, match=re.escape(pinned("ray"))):
        exec(code.replace("$RAY_VERSION", "2.0.0"), {})


# README


def test_files_and_commands_of_the_readme_are_there() -> None:
    blocks = re.findall(r"^    (\S.*)$", README, re.MULTILINE)
    assert len(blocks) > 15
    for line in blocks:
        for path in re.findall(r"(?<![\w/.-])((?:cluster|examples|docs)/[\w./-]*\w)", line):
            assert (ROOT / path).exists(), line
        for module in re.findall(r"python -m (jobs\.\w+)", line):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), line
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (CLUSTER / link).exists(), link
    body = re.search(r"\{\"features\".*\}", README)
    assert body is None or json.loads(body[0])
