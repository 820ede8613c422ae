"""`python -m tests.e2e.cluster COMMAND`, as root:

    up [NODES]                    start a cluster of 2 nodes, n1 and n2, or of NODES
    down                          end it; nothing is left behind
    kubectl ARGUMENT...           as its administrator
    on NODE COMMAND...            as a process of the node; n0 is the control plane, for clients
    restart NODE PROGRAM          containerd, kubelet or kube-proxy; also: stop, start
    push FOLDER:TAG NAME:TAG      an image of an OCI layout into its registry
    push-folder FOLDER NAME:TAG   a folder as an image
    check                         say what this machine lacks; exit code 1 if anything
    build [e2e]                   Kubernetes' programs that are missing, from Go's modules

CLUSTER_BIN (~/.cache/clip-csi/cluster/bin) has the programs, CLUSTER_STATE (.../state) what the
running cluster keeps.
"""

import os
import sys

from tests.e2e.cluster import images, lifecycle, programs
from tests.e2e.cluster.node import restart_program, start_program, stop_program
from tests.e2e.cluster.place import CONTROL, environment, nodes
from tests.e2e.cluster.processes import NotUp, inside
from tests.e2e.cluster.requirements import unmet


def main(words: list[str]) -> None:
    match words:
        case ["up"]:
            lifecycle.up(2)
        case ["up", count] if count.isdigit():
            lifecycle.up(int(count))
        case ["down"]:
            lifecycle.down()
        case ["kubectl", *command]:
            _become(CONTROL, "kubectl", *command)
        case ["on", node, *command] if command:
            _become(node, *command)
        case ["restart", node, program]:
            restart_program(node, program)
        case ["stop", node, program]:
            stop_program(node, program)
        case ["start", node, program]:
            start_program(node, program)
        case ["push", layout, name]:
            images.push(layout, name)
        case ["push-folder", folder, name]:
            images.push_folder(folder, name)
        case ["check"]:
            if lacking := unmet():
                sys.exit("; ".join(lacking))
        case ["build", *more] if more in ([], ["e2e"]):
            programs.build_missing(with_e2e=bool(more))
        case _:
            print(__doc__, file=sys.stderr)
            sys.exit(2)


def _become(node: str, *command: str) -> None:
    if not nodes():
        raise NotUp("no cluster is up: start one by `python -m tests.e2e.cluster up`")
    if node not in (CONTROL, *nodes()):
        raise NotUp(f"no node {node}: {CONTROL} and {', '.join(nodes())} are there")
    words = [*inside(node), *command]
    os.execvpe(words[0], words, environment())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except NotUp as error:
        sys.exit(f"cluster: {error}")
