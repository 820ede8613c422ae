"""What people see of volumes: events and ClipMounts.

Border: nobody here decides anything, and nothing that fails here fails a volume.
"""
