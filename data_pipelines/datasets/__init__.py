"""The data sets that can be prepared: one module each, with list_items(source) -> Listing."""

from data_pipelines.datasets import image_folder, siim_covid19, synthetic_cxr

DATASETS = {
    'siim_covid19': siim_covid19,
    'image_folder': image_folder,
    'synthetic_cxr': synthetic_cxr,
}
