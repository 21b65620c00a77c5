"""Evidence: what is known about a model on the user's data for a device, and the store of it."""
