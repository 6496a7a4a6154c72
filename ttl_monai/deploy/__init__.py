"""From a bundle to its users: checked, shared, exported, served."""
