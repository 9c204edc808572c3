"""Cloud file storage that stays up when the crowd arrives."""
