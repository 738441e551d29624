"""What one alert looks like to each receiver."""
