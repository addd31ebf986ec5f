"""How much each module matters to a task: dispersion of its outputs, norm of its gradients."""
