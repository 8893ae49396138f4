"""Search: nearest neighbours and ranks in the whole gallery, exactly."""
