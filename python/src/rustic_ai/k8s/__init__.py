"""Kubernetes-native execution engine for Rustic AI."""
