"""gRPC in, volumes out: the CSI node plugin.

Border: grpcio and its threads live here only. A volume is made by launching the `clipfs`
command; nothing here serves a read.
"""
