"""The Pod Security Standard "restricted" (v1.37), as a function of a pod.

Owns: its rules, in the words of https://kubernetes.io/docs/concepts/security/pod-security-standards/. Proved on the
fixtures of kubernetes' own admission plugin (tests/chart/test_pod_security.py), then asked about the rendered chart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]

VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_notsent_lowat",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_slow_start_after_idle",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def faults(pod: Object) -> list[str]:
    """What "restricted" refuses of a Pod or of a workload's template, a line each; empty where it holds."""
    spec: Object = pod.get("spec") or {}
    windows = (spec.get("os") or {}).get("name") == "windows"
    found = list(_of_pod(pod, spec, windows=windows))
    for container in containers(spec):
        name = container.get("name", "")
        found += [f"container {name}: {text}" for text in _of_container(spec, container, windows=windows)]
    return found


def containers(spec: Object) -> list[Object]:
    """All of a pod's, those that only start or debug it included."""
    return [
        container
        for kind in ("initContainers", "containers", "ephemeralContainers")
        for container in spec.get(kind) or ()
    ]


def _of_pod(pod: Object, spec: Object, *, windows: bool) -> Iterator[str]:
    context = spec.get("securityContext") or {}
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} is true"
    for volume in spec.get("volumes") or ():
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume.get('name')}: {', '.join(sorted(kinds - VOLUMES))} is not allowed"
    for sysctl in context.get("sysctls") or ():
        if sysctl.get("name") not in SYSCTLS:
            yield f"sysctl {sysctl.get('name')} is not allowed"
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    for key, value in annotations.items():
        if key.startswith(_APPARMOR) and value not in {"", "runtime/default"} and not value.startswith("localhost/"):
            yield f"annotation {key} is {value}"
    yield from _of_context(context, windows=windows)


def _of_container(spec: Object, container: Object, *, windows: bool) -> Iterator[str]:
    context = container.get("securityContext") or {}
    yield from _of_context(context, windows=windows)
    if context.get("privileged"):
        yield "is privileged"
    if context.get("procMount", "Default") != "Default":
        yield f"procMount is {context['procMount']}"
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"
    yield from _of_hosts(container)
    pod_context = spec.get("securityContext") or {}
    if context.get("runAsNonRoot", pod_context.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if windows:
        return
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = context.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield "does not drop ALL capabilities"
    if added := set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"adds capabilities {', '.join(sorted(added))}"
    profile = context.get("seccompProfile") or pod_context.get("seccompProfile") or {}
    if profile.get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "seccompProfile is neither RuntimeDefault nor Localhost"


def _of_context(context: Object, *, windows: bool) -> Iterator[str]:
    """What a pod's and a container's security context have in common."""
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions name a type, user or role that is not allowed"
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        yield "appArmorProfile is Unconfined"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "windowsOptions.hostProcess is true"
    if context.get("runAsUser") == 0:
        yield "runAsUser is 0"
    if not windows and (context.get("seccompProfile") or {}).get("type") == "Unconfined":
        yield "seccompProfile is Unconfined"


def _of_hosts(container: Object) -> Iterator[str]:
    """Probes and lifecycle hooks ask the pod, and nobody else by a name of their own."""
    lifecycle = container.get("lifecycle") or {}
    actions = {
        **{name: container.get(name) for name in ("livenessProbe", "readinessProbe", "startupProbe")},
        **{name: lifecycle.get(name) for name in ("postStart", "preStop")},
    }
    for name, action in actions.items():
        for kind in ("httpGet", "tcpSocket"):
            if ((action or {}).get(kind) or {}).get("host"):
                yield f"{name}.{kind}.host is set"
