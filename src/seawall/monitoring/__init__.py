"""What follows from what the service says about itself."""
