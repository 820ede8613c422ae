"""Wire formats: our own `.proto` files, and what `make proto` generates from them."""
