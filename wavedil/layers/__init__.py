"""Layers that are made of several ops: the dilated pyramid, and squeeze and excitation."""
