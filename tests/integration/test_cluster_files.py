"""The cluster files, read by what will read them: Ray's launcher, the AWS API model, Ray's KubeRay reader."""

import copy
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
RAY_VERSION = importlib.metadata.version("ray")
MANIFESTS = ["raycluster.yaml", "rayjob-train.yaml"]
SECRETS = re.compile(r"AKIA[0-9A-Z]{16}|aws_secret_access_key|RAY_AUTH_TOKEN=", re.IGNORECASE)


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "ray-cluster.yaml").read_text())
    return loaded


def check_as_ray_up_does(cluster: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def complaints_of_the_aws_api(cluster: dict[str, Any]) -> str:
    """What botocore's model of RunInstances says to each node_config (Ray's schema accepts anything there)."""
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    reports = []
    for node_type in cluster["available_node_types"].values():
        # SubnetIds is Ray's own key: it picks one of them as SubnetId.
        request = {name: value for name, value in node_type["node_config"].items() if name != "SubnetIds"}
        reports.append(ParamValidator().validate({**request, "MinCount": 1, "MaxCount": 1}, shape).generate_report())
    return "\n".join(filter(None, reports))


class TestRayClusterYaml:
    def test_ray_accepts_it(self, cluster: dict[str, Any]) -> None:
        prepared = check_as_ray_up_does(cluster)
        assert set(prepared["available_node_types"]) == {"head", "cpu", "gpu"}

    @pytest.mark.parametrize("key", ["max_worker", "docker_image"])
    def test_ray_would_refuse_a_misspelt_key(self, cluster: dict[str, Any], key: str) -> None:
        from jsonschema import ValidationError

        with pytest.raises(ValidationError, match=key):
            check_as_ray_up_does(cluster | {key: 1})

    def test_aws_accepts_every_kind_of_node(self, cluster: dict[str, Any]) -> None:
        assert complaints_of_the_aws_api(cluster) == ""
        cluster["available_node_types"]["gpu"]["node_config"]["InstanceTyp"] = "g6.4xlarge"
        assert "InstanceTyp" in complaints_of_the_aws_api(cluster)

    def test_every_node_is_closed_and_keyless(self, cluster: dict[str, Any]) -> None:
        for node_type in cluster["available_node_types"].values():
            node = node_type["node_config"]
            assert node["IamInstanceProfile"]["Name"].startswith("tljobs-")
            assert node["ImageId"], "Ray's default image is an Ubuntu of 2018"
            assert node["MetadataOptions"]["HttpTokens"] == "required"
            assert all(device["Ebs"]["Encrypted"] for device in node["BlockDeviceMappings"])
            assert node["SecurityGroupIds"], "Ray's default group opens port 22 to the world"
        assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
        assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
        assert not SECRETS.search((REPOSITORY / "ray-cluster.yaml").read_text())

    def test_only_workers_are_spot_instances_and_watch_for_the_notice(self, cluster: dict[str, Any]) -> None:
        spot = {
            name
            for name, node_type in cluster["available_node_types"].items()
            if node_type["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        }
        assert spot == {"cpu", "gpu"}
        assert any("spot_drain.py" in command for command in cluster["worker_start_ray_commands"])
        assert cluster["available_node_types"]["head"]["resources"] == {"CPU": 0}


class TestKubernetesManifests:
    def resources(self, name: str) -> dict[str, dict[str, float]]:
        """Resources of each group as the autoscaler of this Ray version reads them."""
        from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

        manifest = yaml.safe_load((REPOSITORY / "cluster/k8s" / name).read_text())
        spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
        resource = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "c", "namespace": "n"}}
        types = _derive_autoscaling_config_from_ray_cr(resource | {"spec": spec})["available_node_types"]
        return {group: node_type["resources"] for group, node_type in types.items()}

    @pytest.mark.parametrize("name", MANIFESTS)
    def test_ray_reads_the_groups_as_meant(self, name: str) -> None:
        found = self.resources(name)
        head = next(resources for group, resources in found.items() if "head" in group)
        assert head["CPU"] == 0
        assert (found["gpu"]["CPU"], found["gpu"]["GPU"]) == (14, 1)
        assert "GPU" not in found.get("cpu", {})

    @pytest.mark.parametrize("name", MANIFESTS)
    def test_they_ask_for_the_token_and_hold_no_secret(self, name: str) -> None:
        text = (REPOSITORY / "cluster/k8s" / name).read_text()
        spec = yaml.safe_load(text)["spec"]
        assert spec.get("rayClusterSpec", spec)["authOptions"] == {"mode": "token"}
        assert not SECRETS.search(text)

    def test_the_entrypoint_is_a_command_of_tljobs(self) -> None:
        from tljobs.cli import app

        spec = yaml.safe_load((REPOSITORY / "cluster/k8s/rayjob-train.yaml").read_text())["spec"]
        program, command, *_ = spec["entrypoint"].split()
        assert program == "tljobs"
        assert command in list(app)


@pytest.mark.parametrize(
    "path", ["ray-cluster.yaml", "cluster/Dockerfile", *(f"cluster/k8s/{name}" for name in MANIFESTS)]
)
def test_everything_speaks_of_the_installed_versions(path: str) -> None:
    text = (REPOSITORY / path).read_text()
    assert set(re.findall(r"ray(?::|Version: \"|)(\d+\.\d+\.\d+)", text)) == {RAY_VERSION}
    image = f"registry.example.org/tljobs:{importlib.metadata.version('tljobs')}-ray{RAY_VERSION}"
    assert set(re.findall(r"registry\.example\.org/\S+", text)) == {image}
