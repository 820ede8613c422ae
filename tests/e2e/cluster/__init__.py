"""A real Kubernetes of two nodes on one machine: the harness, `python -m tests.e2e.cluster`.

Each node has a mount, a pid and a network namespace of its own, and so its own containerd,
kubelet, kube-proxy, /var/lib/kubelet, /images and pod network. n0 is the control plane: etcd, API
server, controllers, DNS and a registry, in a network namespace that holds the bridge. RBAC and the
Node authorizer are on. Nothing is added to the machine's own network.

Limits: `cgroupsPerQOS: false`, so priority classes and requests weigh nothing; no dynamic
provisioner of volumes; no AppArmor, no SELinux.

Imports go one way: __main__ > requirements | programs | lifecycle > node > node_files |
control_plane > network | pki | images > processes > place. Nothing here knows clip-csi.
"""
