"""Methods: how a step is made and which steps are taken."""
