"""How fast this machine is at d2s' work, and how far from what the chip allows."""
