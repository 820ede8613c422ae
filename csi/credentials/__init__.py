"""Which credentials a volume's image is asked for with: from which source, and until when.

Border: nobody here asks a registry or makes a mount. `given` knows no Volume, so that
`csi.volume` can be made with it; everything else here knows both. Nothing that is secret is in
a repr, an error or a log line, or on a disk.
"""
