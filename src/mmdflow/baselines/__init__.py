"""The methods that the papers compare with, each run as well as it can be with the same networks, data and budget."""
