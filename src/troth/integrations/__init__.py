"""Leaves: one small file per framework or library. Each needs only its own library; import the one you use."""
