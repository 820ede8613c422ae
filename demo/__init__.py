"""The demo: one image, two nodes, three tiers, on this machine; `make demo` runs it.

It imports nothing of `csi` or `clipfs`, nor of the tests: it runs the installed commands and
speaks gRPC, HTTP and the file system, as the kubelet, a registry's client and a pod do.

    play       the acts in their order
    stage      a folder, its processes and mounts, and the end of all of them
    services   registry, content cache and node plugins, started on the stage
    kubelet    publishes volumes: gRPC on a plugin's socket
    packages   which of this machine's files make up the image
    image      those files as layers, pushed to the registry
    reads      ranges of a file, timed and counted by tier, with cold page caches
    checks     what is promised, and the words where it is not so
    show       tables and trees
"""
