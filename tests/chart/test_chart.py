"""What the chart renders: for every size and several versions of Kubernetes, judged by programs that others trust."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from authsvc import __version__
from tests.support import pod_security
from tests.support.chart import (
    CHART,
    DIGEST,
    NEWEST,
    OLDEST,
    ROOT,
    SIZES,
    helm,
    objects,
    of_kind,
    only,
    pods,
    render,
    rendered,
    tool,
)

NAMED_IMAGE = (f'image.digest="{DIGEST}"', 'image.pullPolicy="Always"')
"""As whoever deploys in earnest names it; the chart cannot know it."""
OPTIONAL = {"HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor", "Certificate"}
NOT_OF_KUBERNETES = {"ServiceMonitor", "Certificate"}

sizes = pytest.mark.parametrize("size", SIZES)


@sizes
def test_helm_finds_nothing_to_say_against_it(size: str) -> None:
    done = helm("lint", str(CHART), "--strict", "--values", str(CHART / "sizes" / f"{size}.yaml"))
    assert done.returncode == 0, done.stdout


@sizes
@pytest.mark.parametrize("kubernetes", [OLDEST, "1.29", "1.33", NEWEST])
def test_every_object_is_of_the_schema_of_that_kubernetes_and_holds_nothing_else(
    size: str, kubernetes: str, tmp_path: Path
) -> None:
    file = tmp_path / "rendered.yaml"
    own = [one for one in objects(rendered(size, kubernetes)) if one["kind"] not in NOT_OF_KUBERNETES]
    file.write_text(yaml.safe_dump_all(own))
    words = [tool("kubernetes-validate"), "--strict", "-k", f"{kubernetes}.0", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, "WARN" in done.stdout + done.stderr) == (0, False), done.stdout + done.stderr


@sizes
def test_rendering_twice_gives_the_same_bytes(size: str) -> None:
    assert render(size).stdout == render(size).stdout == rendered(size)


@sizes
def test_checkov_finds_no_weakness(size: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(size, NEWEST, *NAMED_IMAGE))
    words = [
        tool("checkov"),
        "--file",
        str(file),
        "--framework",
        "kubernetes",
        "--compact",
        "--quiet",
        "--skip-download",
    ]
    if not of_kind(file.read_text(), "NetworkPolicy"):
        words += ["--skip-check", "CKV2_K8S_6"]  # a network policy is made where it is asked for
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_checkov_finds_no_weakness_in_the_dockerfile() -> None:
    words = ["--file", str(ROOT / "Dockerfile"), "--framework", "dockerfile", "--compact", "--quiet", "--skip-download"]
    done = subprocess.run([tool("checkov"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@sizes
def test_kube_score_finds_nothing_critical(size: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(size, NEWEST, *NAMED_IMAGE))
    words = [tool("kube-score"), "score", "--kubernetes-version", f"v{NEWEST}", "--output-format", "ci", str(file)]
    if not of_kind(file.read_text(), "NetworkPolicy"):
        words += ["--ignore-test", "pod-networkpolicy"]  # as above
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@sizes
def test_the_pod_security_standard_restricted_holds(size: str) -> None:
    found = pods(rendered(size))
    assert len(found) == 2, "the server's and that of `helm test`"
    assert [pod_security.faults(pod) for pod in found] == [[], []]


@sizes
def test_no_pod_has_a_token_of_the_api_server_or_service_links_and_nothing_has_a_role(size: str) -> None:
    for pod in pods(rendered(size)):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False
    assert only(rendered(size), "ServiceAccount")["automountServiceAccountToken"] is False
    assert not [one["kind"] for one in objects(rendered(size)) if "Role" in one["kind"]]


@sizes
def test_no_secret_is_rendered(size: str) -> None:
    assert of_kind(rendered(size), "Secret") == []


def test_no_template_makes_a_secret_or_anything_random() -> None:
    text = "".join(file.read_text() for file in sorted((CHART / "templates").rglob("*")) if file.is_file())
    made = r"\b(rand\w+|gen(CA|Cert|PrivateKey|SelfSigned|Signed)\w*|htpasswd|derivePassword|uuidv4|now|lookup)\b"
    assert re.findall(rf"\{{\{{[^}}]*?{made}", text) == []
    assert "kind: Secret" not in text


def test_what_needs_more_of_the_cluster_is_off_unless_asked() -> None:
    kinds = {one["kind"] for one in objects(rendered("small"))}
    assert kinds == {"ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Service", "Deployment", "Pod"}
    assert {one["kind"] for one in objects(rendered("large"))} >= OPTIONAL


@sizes
def test_probes_ask_by_http_on_the_ops_port(size: str) -> None:
    (server,) = only(rendered(size), "Deployment")["spec"]["template"]["spec"]["containers"]
    asked = {probe: server[f"{probe}Probe"]["httpGet"] for probe in ("startup", "readiness", "liveness")}
    assert asked == {
        "startup": {"path": "/livez", "port": "ops"},
        "readiness": {"path": "/readyz", "port": "ops"},
        "liveness": {"path": "/livez", "port": "ops"},
    }


@sizes
def test_the_record_is_migrated_by_the_same_image_before_the_server_starts(size: str) -> None:
    pod = only(rendered(size), "Deployment")["spec"]["template"]["spec"]
    (migrate,), (server,) = pod["initContainers"], pod["containers"]
    assert (migrate["image"], migrate["args"][0]) == (server["image"], "migrate")
    secrets = {Path(mount["mountPath"]).name for mount in migrate["volumeMounts"] if "secrets" in mount["mountPath"]}
    assert secrets <= {"record", "record-ca"}, "it needs the way to the record and no other secret"
    hooks = [one for one in objects(rendered(size)) if "helm.sh/hook" in (one["metadata"].get("annotations") or {})]
    assert [one["metadata"]["annotations"]["helm.sh/hook"] for one in hooks] == ["test"]


@sizes
def test_one_replica_stops_before_the_next_starts_and_several_give_way_one_by_one(size: str) -> None:
    deployment = only(rendered(size), "Deployment")
    strategy = deployment["spec"]["strategy"]
    if size == "small":
        assert strategy == {"type": "Recreate"}
        return
    assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert of_kind(rendered(size), "PodDisruptionBudget")
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


@sizes
def test_a_pod_has_time_to_be_forgotten_to_drain_and_to_end(size: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["shutdown"]
    values |= (yaml.safe_load((CHART / "sizes" / f"{size}.yaml").read_text())).get("shutdown", {})
    pod = only(rendered(size), "Deployment")["spec"]["template"]["spec"]
    needed = values["delaySeconds"] + values["graceSeconds"]
    assert pod["terminationGracePeriodSeconds"] >= needed + 10, "pyvoy may take five seconds more than the grace"
    (server,) = pod["containers"]
    command = server["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "/opt/authsvc/bin/python", "the image needs no shell"
    assert f"sleep({values['delaySeconds']})" in command[-1]


@sizes
def test_the_headless_service_names_every_replica_and_its_ops_port(size: str) -> None:
    headless = only(rendered(size), "Service", "authsvc-headless")["spec"]
    assert headless["clusterIP"] == "None"
    assert [port["name"] for port in headless["ports"]] == ["grpc", "ops"]
    labels = only(rendered(size), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert headless["selector"].items() <= labels.items()
    smoke = only(rendered(size), "Pod")["metadata"]["labels"]
    assert not headless["selector"].items() <= smoke.items(), "the pod of `helm test` is no replica"


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether a selector means an object of these labels."""
    return selector.items() <= labels.items()


def test_what_others_select_is_there() -> None:
    manifests = rendered("large")
    deployment, smoke = only(manifests, "Deployment"), only(manifests, "Pod")
    server = deployment["spec"]["template"]["metadata"]["labels"]
    assert only(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"], "the autoscaler's, not helm's at every upgrade"
    assert selects(only(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"], server)
    policy = only(manifests, "NetworkPolicy", "authsvc")["spec"]
    assert selects(policy["podSelector"]["matchLabels"], server)
    allowed = policy["ingress"][0]["from"]
    assert selects(allowed[0]["podSelector"]["matchLabels"], smoke["metadata"]["labels"]), "helm test may ask"
    assert allowed[1:] == [{"namespaceSelector": {"matchLabels": {"authsvc": "caller"}}}]
    monitor = only(manifests, "ServiceMonitor")["spec"]
    (watched,) = (
        one
        for one in of_kind(manifests, "Service")
        if selects(monitor["selector"]["matchLabels"], one["metadata"]["labels"])
    )
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in watched["spec"]["ports"]}
    certificate = only(manifests, "Certificate")["spec"]
    volumes = {one["name"]: one for one in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["tls"]["secret"]["secretName"] == certificate["secretName"]
    assert {"authsvc.auth.svc", "authsvc-headless.auth.svc"} <= set(certificate["dnsNames"])


def test_the_chart_is_of_this_release() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


def test_a_digest_names_the_image_and_pull_secrets_reach_every_pod() -> None:
    manifests = rendered("small", NEWEST, *NAMED_IMAGE, 'imagePullSecrets=[{"name":"registry"}]')
    for pod in pods(manifests):
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        every = pod_security.containers(pod["spec"])
        assert {container["image"] for container in every} == {f"authsvc@{DIGEST}"}


def test_volumes_arguments_and_environment_are_added() -> None:
    manifests = rendered(
        "small",
        NEWEST,
        'extraVolumes=[{"name":"more","emptyDir":{}}]',
        'extraVolumeMounts=[{"name":"more","mountPath":"/more"}]',
        'extraArgs=["--tokens.ttl=10m"]',
        'extraEnv=[{"name":"OTEL_SERVICE_NAME","value":"authsvc"}]',
    )
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert server["args"][-1] == "--tokens.ttl=10m"
    assert {"name": "OTEL_SERVICE_NAME", "value": "authsvc"} in server["env"]
    assert {"name": "more", "mountPath": "/more"} in server["volumeMounts"]
    assert {"name": "more", "emptyDir": {}} in pod["volumes"]


def test_another_configuration_is_another_pod() -> None:
    def checksum(*settings: str) -> str:
        template = only(rendered("small", NEWEST, *settings), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum() != checksum('config={"tokens":{"ttl":"5m"}}')


def paths(tree: dict[str, object], prefix: str = "") -> set[str]:
    """Every key of nested objects, `a.b`."""
    found: set[str] = set()
    for name, value in tree.items():
        found.add(f"{prefix}{name}")
        if isinstance(value, dict):
            found |= paths(value, f"{prefix}{name}.")
    return found


def schema_paths(schema: dict[str, object], prefix: str = "") -> set[str]:
    """The same of a JSON Schema, where it allows no other name."""
    found: set[str] = set()
    properties = schema.get("properties")
    if not isinstance(properties, dict) or schema.get("additionalProperties") is not False:
        return found
    for name, inner in properties.items():
        found |= {f"{prefix}{name}"} | schema_paths(inner, f"{prefix}{name}.")
    return found


def test_every_value_is_documented_and_of_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    opened = ("podSecurityContext.", "securityContext.")
    known = {path for path in paths(values) if not path.startswith(opened)}
    optional = {"global", "resources.requests.ephemeral-storage", "resources.limits.ephemeral-storage"}
    assert schema_paths(schema) - optional == known - optional
    assert schema["additionalProperties"] is False


def test_every_group_of_values_begins_with_what_it_means() -> None:
    groups = (CHART / "values.yaml").read_text().strip().split("\n\n")
    assert [group.splitlines()[0] for group in groups if not group.startswith("# ")] == []


@pytest.mark.parametrize(
    "setting",
    [
        "replcias=3",
        'image.tags="1"',
        'tls.mode="tls"',
        'record.url="postgresql://authsvc:password@db/authsvc"',
        'record.url="mysql://db"',
        "replicas=0",
        'kek.key="a b"',
        'image.digest="latest"',
        'config={"tokens":"10m"}',
        "opsPort=80",
    ],
)
def test_a_value_that_is_not_known_or_not_possible_is_refused(setting: str) -> None:
    done = render("", NEWEST, setting)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


def test_more_than_one_process_is_refused_with_the_commands_that_make_what_is_missing() -> None:
    for setting in ("replicas=3", "workers=2", "autoscaling.enabled=true"):
        text = render("", NEWEST, setting).stderr
        assert "This release cannot start." in text
        for value in ("record.url", "record.existingSecret", "counters.url", "counters.existingSecret"):
            assert f"\n  {value}: " in text
        for name in ("record", "counters", "kek", "admin"):
            assert f"kubectl --namespace auth create secret generic authsvc-{name} --from-file=" in text
        assert "openssl rand -hex 32 | kubectl" in text
        assert "\n  tls.mode: self_signed is for one replica" in text


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (['tls.mode="files"'], "tls.existingSecret: "),
        (["tls.certManager.enabled=true"], "tls.certManager: goes with tls.mode files"),
        (['tls.mode="files"', "tls.certManager.enabled=true"], "tls.certManager.issuerRef.name: "),
        (['tls.mode="mesh"', 'tls.clientCa.existingSecret="ca"'], "tls.clientCa: goes with"),
        (['record.existingSecret="record"'], "record.existingSecret: goes with record.url"),
        (['counters.existingSecret="redis"'], "counters.existingSecret: goes with counters.url"),
    ],
)
def test_values_that_do_not_go_together_are_refused_by_name(settings: list[str], fault: str) -> None:
    done = render("", NEWEST, *settings)
    assert done.returncode != 0
    assert f"\n  {fault}" in done.stderr


def test_notes_tell_the_next_three_commands(tmp_path: Path) -> None:
    copy = tmp_path / "authsvc"
    subprocess.run(["cp", "-r", str(CHART), str(copy)], check=True)
    notes = copy / "templates" / "NOTES.txt"
    (copy / "templates" / "_notes.tpl").write_text(
        f'{{{{- define "notes" -}}}}\n{notes.read_text()}\n{{{{- end -}}}}\n'
    )
    (copy / "templates" / "notes.yaml").write_text('kind: Notes\ntext: {{ include "notes" . | toJson }}\n')
    for size in SIZES:
        text = only(rendered(size, chart=copy), "Notes")["text"]
        commands = re.findall(r"^ {5}(\S.*)$", text, re.MULTILINE)
        assert len(commands) == 3, text
        assert commands[0].startswith("kubectl --namespace auth rollout status deployment/authsvc && helm test")
