"""What every room needs: errors, files, paths, progress, provenance. Imports nothing of qsd."""
