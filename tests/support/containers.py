"""The image, run by podman as root: containers and rendered pods, with a read-only root and no capability.

Owns: how podman is called where there is neither Docker nor systemd. Without podman or the image a test is skipped with
what to do, but never in CI.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.chart import missing, objects

GROUP = 10001
IMAGE = os.environ.get("AUTHSVC_IMAGE", "localhost/authsvc:dev")
_CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "/usr/sbin/runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_HARDENED = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")


class Podman:
    """Podman with its configuration; every call must succeed unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        configuration = folder / "containers.conf"
        configuration.write_text(_CONFIGURATION)
        self._environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}

    def __call__(self, *words: str, given: str | None = None, deadline_s: float = 60.0, code: int | None = 0) -> str:
        """Run a command; what it wrote to standard output. `code` None takes any exit code."""
        done = subprocess.run(
            ["podman", *words],
            env=self._environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        assert code is None or done.returncode == code, (
            f"podman {words[0]}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def inspect(self, name: str) -> dict[str, Any]:
        """What podman knows of a container or an image."""
        (found,) = json.loads(self("inspect", name))
        return dict(found)

    def state(self, name: str) -> tuple[bool, int]:
        """Whether a container runs, and the exit code of one that does not."""
        state = self.inspect(name)["State"]
        return bool(state["Running"]), int(state["ExitCode"])

    @contextmanager
    def container(self, name: str, *words: str, options: tuple[str, ...] = ()) -> Iterator[str]:
        """A container of the image on the host's network, removed at the end."""
        fixed = ("--detach", "--no-healthcheck", "--network", "host", "--name", name, *_HARDENED)
        self("run", *fixed, *options, IMAGE, *words)
        try:
            yield name
        finally:
            self("rm", "--force", "--volumes", "--time", "1", name)

    @contextmanager
    def pod(
        self, manifests: str, folder: Path, secrets: Mapping[str, Mapping[str, str]] | None = None
    ) -> Iterator[str]:
        """The rendered server's pod by `podman play kube`; the name of its container.

        On the host's network, where podman maps no ports. It runs probes by a `curl` in the image, and no preStop: the
        test asks the ops port itself. It knows no `items` of a secret's volume, so the kubelet's files are made here:
        `secrets` by name and key.
        """
        pod = next(one for one in objects(manifests) if one["kind"] == "Deployment")
        name = pod["metadata"]["name"]
        specification = pod["spec"]["template"]["spec"] | {"hostNetwork": True, "restartPolicy": "Never"}
        for container in specification["containers"]:
            for unknown in ("ports", "lifecycle", "startupProbe", "readinessProbe", "livenessProbe"):
                container.pop(unknown)
        specification["volumes"] = [_mounted(one, folder, secrets or {}) for one in specification["volumes"]]
        metadata = {"name": name, "labels": pod["spec"]["template"]["metadata"]["labels"]}
        kept = [one for one in objects(manifests) if one["kind"] in {"ConfigMap", "PersistentVolumeClaim"}]
        played = [*kept, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": specification}]
        file = folder / "pod.yaml"
        file.write_text(yaml.safe_dump_all(played))
        try:
            try:
                self("play", "kube", str(file), deadline_s=120.0)
            except AssertionError as fault:
                fault.add_note(self("pod", "logs", name, code=None))
                raise
            yield f"{name}-authsvc"
        finally:
            self("play", "kube", "--down", str(file), code=None)
            self("volume", "rm", "--force", name, code=None)

    def volume(self, name: str) -> Path:
        """The folder of a volume on this machine."""
        return Path(self("volume", "inspect", "--format", "{{.Mountpoint}}", name).strip())


def _mounted(volume: Any, folder: Path, secrets: Mapping[str, Mapping[str, str]]) -> Any:
    """A volume as it is; a secret's as files with its mode, root's and of the pod's group."""
    if "secret" not in volume:
        return volume
    source, place = volume["secret"], folder / volume["name"]
    place.mkdir(mode=0o755)
    for item in source["items"]:
        file = place / item["path"]
        file.write_text(secrets[source["secretName"]][item["key"]])
        file.chmod(source["defaultMode"])
        os.chown(file, 0, GROUP)
    return {"name": volume["name"], "hostPath": {"path": str(place), "type": "Directory"}}


@cache
def what_is_missing() -> str:
    """Why no container can be run here; empty where one can."""
    if os.geteuid() != 0 or not shutil.which("podman"):
        return "podman as root is not here (Debian: buildah podman runc debootstrap)"
    known = subprocess.run(["podman", "image", "exists", IMAGE], capture_output=True, check=False).returncode == 0
    return "" if known else f"there is no image {IMAGE}: make image BASE=debian"


def podman(folder: Path) -> Podman:
    """Podman, or the end of the test."""
    if why := what_is_missing():
        missing(why)
    return Podman(folder)
