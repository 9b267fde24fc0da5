"""Every network that can be trained here, behind one registry."""
