"""The manifests as kustomize builds them, against the published schemas of Kubernetes and KEDA; no cluster is asked.

Not shown here: that a cluster runs them. kubectl brings kustomize; kubernetes-validate the API server's own schemas;
KEDA's CRD as a schema lies beside this file. PromQL is evaluated by Prometheus' own promtool.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from broker.mosquitto_conf import dynamic_security, lan_config
from services.settings.loading import checked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
KEDA = json.loads((Path(__file__).parent / "keda-scaledobject.schema.json").read_text())
OVERLAYS = ("k3s", "cluster")
VERSION = "1.32"
SERVICES = ("fetcher", "featurizer", "inference", "dashboard")
Manifest = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def built(request: pytest.FixtureRequest) -> tuple[str, list[Manifest]]:
    """Name of an overlay, and its manifests as kustomize builds them."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, whose kustomize builds the manifests, is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", str(KUBERNETES / "overlays" / request.param)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kustomize warns: {done.stderr}"
    return request.param, [each for each in yaml.safe_load_all(done.stdout) if each]


def of(manifests: list[Manifest], kind: str, name: str | None = None) -> list[Manifest]:
    return [each for each in manifests if each["kind"] == kind and name in (None, each["metadata"]["name"])]


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Pod specifications by the name of what makes them."""
    makers = of(manifests, "Deployment") + of(manifests, "StatefulSet")
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in makers}


def test_every_manifest_is_as_the_api_servers_schema_says(built: tuple[str, list[Manifest]]) -> None:
    import kubernetes_validate

    names = [f"{each['kind']}/{each['metadata']['name']}" for each in built[1]]
    assert len(names) == len(set(names)) and {f"Deployment/{name}" for name in ("featurizer", "inference")} <= set(
        names
    )
    for each in built[1]:
        if each["apiVersion"] != "keda.sh/v1alpha1":
            kubernetes_validate.validate(each, VERSION, strict=True)


def test_the_schema_check_can_fail(built: tuple[str, list[Manifest]]) -> None:
    import kubernetes_validate

    spoiled = of(built[1], "Deployment", "inference")[0]
    spoiled = {**spoiled, "spec": {**spoiled["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(spoiled, VERSION, strict=True)


def test_scaled_objects_are_as_kedas_crd_says(built: tuple[str, list[Manifest]]) -> None:
    scaled = of(built[1], "ScaledObject")
    assert len(scaled) == (2 if built[0] == "cluster" else 0)
    for each in scaled:
        jsonschema.validate(each, KEDA)
        assert each["spec"]["scaleTargetRef"]["name"] in pods(built[1])
        (trigger,) = each["spec"]["triggers"]
        # What KEDA's documentation asks of a prometheus trigger, which its CRD leaves open.
        assert trigger["type"] == "prometheus"
        assert set(trigger["metadata"]) <= {"serverAddress", "query", "threshold", "ignoreNullValues"}
        assert float(trigger["metadata"]["threshold"]) > 0


def test_a_scaled_object_with_a_wrong_key_is_noticed(built: tuple[str, list[Manifest]]) -> None:
    for each in of(built[1], "ScaledObject"):
        for wrong in ({"maxReplicas": 8}, {"maxReplicaCount": "eight"}, {"triggers": [{"metadata": {}}]}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({**each, "spec": {**each["spec"], **wrong}}, KEDA)


def test_the_configuration_in_the_config_map_is_one_that_services_take(built: tuple[str, list[Manifest]]) -> None:
    (config,) = of(built[1], "ConfigMap", "genre")
    settings = checked(tomllib.loads(config["data"]["genre.toml"]), "ConfigMap")
    assert settings.broker.tls and settings.metrics.port == 9100 and settings.paths.state_dir.is_absolute()
    for name in SERVICES:
        for mount in pods(built[1])[name]["containers"][0]["volumeMounts"]:
            assert mount["name"] in {volume["name"] for volume in pods(built[1])[name]["volumes"]} | {"state"}


def test_no_credential_is_in_a_manifest_and_each_service_gets_its_own_alone(built: tuple[str, list[Manifest]]) -> None:
    assert not of(built[1], "Secret")
    for name in SERVICES:
        (secret,) = [volume["secret"] for volume in pods(built[1])[name]["volumes"] if "secret" in volume]
        assert [item["key"] for item in secret["items"]] == ["ca.crt", name]
        env = {each["name"]: each.get("value") for each in pods(built[1])[name]["containers"][0]["env"]}
        assert env["GENRE_BROKER__USERNAME"] == name
        assert env["GENRE_BROKER__PASSWORD_FILE"] == f"/run/secrets/genre-broker/{name}"


def test_every_pod_is_hardened_and_probed(built: tuple[str, list[Manifest]]) -> None:
    for name, pod in pods(built[1]).items():
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"], name
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], name
            assert context["capabilities"]["drop"] == ["ALL"], name
            assert container["livenessProbe"] and container["readinessProbe"], name
            assert container["resources"]["requests"] and "memory" in container["resources"]["limits"], name
            assert ":" in container["image"] and not container["image"].endswith(":latest"), name
        if name in SERVICES:
            assert pod["terminationGracePeriodSeconds"] > checked({}, "defaults").worker.drain_s + 2, name


def test_the_broker_in_the_cluster_has_the_configuration_that_is_tested_elsewhere() -> None:
    etc = Path("/etc/genre-edge/broker")
    plugin = dynamic_security("/usr/lib/mosquitto_dynamic_security.so", etc / "dynamic-security.json")
    text = (KUBERNETES / "mosquitto" / "mosquitto.conf").read_text()
    assert text.partition("\n")[2] == lan_config(etc, plugin, Path("/run/genre-broker"))


def test_the_metrics_that_scaling_asks_for_are_those_of_the_services(built: tuple[str, list[Manifest]]) -> None:
    from services.fetcher.delivery.sender import OUTSTANDING
    from services.process.worker import IN_HAND

    for each in of(built[1], "ScaledObject"):
        query = each["spec"]["triggers"][0]["metadata"]["query"]
        for metric in (OUTSTANDING, IN_HAND):
            assert next(iter(metric.describe())).name in query


@pytest.mark.parametrize(
    ("outstanding", "in_hand", "replicas"),
    [(0, 0, 1), (3, 1, 1), (40, 4, 2), (40, 8, 4), (10, 8, 3), (40, 0.4, 1)],
    ids=["idle", "light load", "lag, one full replica: double", "still lagging: double", "enough", "another's lag"],
)
def test_the_lag_gives_the_replicas_it_should(
    outstanding: float, in_hand: float, replicas: int, tmp_path: Path
) -> None:
    """KEDA hands the value to a HorizontalPodAutoscaler: replicas = value / threshold, rounded up, at least one."""
    promtool = shutil.which(
        "promtool", path=f"{os.environ['PATH']}{os.pathsep}{KUBERNETES.parents[1] / 'build' / 'web'}"
    )
    if promtool is None:
        pytest.skip("promtool is not installed")
    scaled = next(yaml.safe_load_all((KUBERNETES / "autoscale" / "scaled.yaml").read_text()))
    trigger = scaled["spec"]["triggers"][0]["metadata"]
    value = min(outstanding, 2 * in_hand)
    least, most = (replicas - 1) * float(trigger["threshold"]), replicas * float(trigger["threshold"])
    assert value <= most and (value > least or replicas == 1), "the case itself is wrong"
    series = [
        {"series": 'genre_chunks_outstanding{pod="fetcher-0"}', "values": f"{outstanding}x10"},
        {"series": 'genre_in_hand{service="featurizer",pod="a"}', "values": f"{in_hand}x10"},
        {"series": 'genre_in_hand{service="inference",pod="b"}', "values": "4x10"},
    ]
    expected = [{"expr": trigger["query"], "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": value}]}]
    case = tmp_path / "case.yml"
    case.write_text(
        yaml.safe_dump({"tests": [{"interval": "30s", "input_series": series, "promql_expr_test": expected}]})
    )
    done = subprocess.run([promtool, "test", "rules", str(case)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
