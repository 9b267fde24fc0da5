"""A physics phantom of glioma patients, in the layout of BraTS 2021.

Training data that anybody may have: skull-stripped brains with gliomas, made from tissue
fractions, relaxation times and the spin-echo equation. For about every enhancing tumour there is
a mimic, which looks the same on T1 and T2 but takes up no contrast agent and has no label, so the
region prompt carries what the images do not.
"""

from tlp_train.phantom.case import PhantomCase, case_name, make_case
from tlp_train.phantom.cohort import write_case, write_cohort

__all__ = ["PhantomCase", "case_name", "make_case", "write_case", "write_cohort"]
