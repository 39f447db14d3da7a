"""The embedded data set: phantom chest radiographs, written as DICOM files."""
from data_pipelines.synthetic.write_siim import generate

__all__ = ['generate']
