"""What a script's text does not show: code made while it runs, functions replaced, objects and bytes from elsewhere."""
