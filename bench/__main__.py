"""Run every benchmark and print its tables; exit code 1 if a bar is missed."""

import sys

from bench import cluster, content_client, content_server, ranges, second_node, start

if __name__ == "__main__":
    bars = ranges.run() + start.run() + content_server.run() + content_client.run()
    bars += second_node.run() + cluster.run()
    sys.exit(0 if all(bar.is_met for bar in bars) else 1)
