"""The stages of `compress.run`, in the order in which it calls them."""
