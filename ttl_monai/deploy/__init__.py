"""From a trained run to another machine: bundles checked before they run, fetched, and shared."""
