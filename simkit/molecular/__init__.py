"""What molecular trajectories tell, and models fitted to it."""
