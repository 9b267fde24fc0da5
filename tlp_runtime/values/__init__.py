"""What voxels mean."""
