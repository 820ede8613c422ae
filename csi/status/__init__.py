"""What people see of volumes: events, ClipMounts, metrics.

Border: nobody here decides anything, and nothing that fails here fails a volume.
"""
