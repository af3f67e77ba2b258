"""What models are built from: parameters as named views of one flat buffer, and the files they live in."""
