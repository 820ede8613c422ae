"""Parts of `bench` that measure nothing: what is made of the figures."""
