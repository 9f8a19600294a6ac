"""Checks files of a cluster offline: cluster.yaml, Kubernetes manifests, Ray Serve configs.

    python -m deployments.validate

What each kind of file must be is in `cluster_file.py`, `kubernetes.py` and `serve_file.py`. Nothing
here starts Ray or asks a cloud.
"""
