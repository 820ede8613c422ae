"""What is asked of the operating system: durable files, locks, processes, workers.

Knows nothing of images.
"""
