"""Small graphs with planted copies of channels: `net` builds them, the other rooms hold the cases."""
