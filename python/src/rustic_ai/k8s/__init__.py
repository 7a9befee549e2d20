"""Kubernetes-native execution engine for Rustic AI."""

from typing import Any

__all__ = ["K8sExecutionEngine"]


def __getattr__(name: str) -> Any:
    # On demand: agents import `rustic_ai.k8s.runtime`, and must not have gRPC before they are forked.
    if name == "K8sExecutionEngine":
        from rustic_ai.k8s.execution import K8sExecutionEngine

        return K8sExecutionEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
