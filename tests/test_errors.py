"""What other libraries' errors come to in one line."""
import pytest

from mmone.errors import cause

# As they were raised, shortened in the middle.
DUMPS = [
    ("Exporting the operator 'aten::special_i0e' to ONNX opset version 17 is not supported",
     "Exporting the operator 'aten::special_i0e' to ONNX opset version 17 is not supported"),
    ("Check 'false' failed at src/frontends/common_translators/src/unconverted_ops_report.cpp:151:\n"
     "FrontEnd API failed with OpConversionFailure:\nModel wasn't fully converted.\nSummary:\n"
     '-- No conversion rule found for operations: Det-17\n', 'No conversion rule found for operations: Det-17'),
    ("PyTorch convert function for op 'special_i0e' not implemented.",
     "PyTorch convert function for op 'special_i0e' not implemented."),
    ('Could not guard on data-dependent expression Eq(u0, 1) (unhinted: Eq(u0, 1)).  (Size-like symbols: none)\n\n'
     'consider using data-dependent friendly APIs such as guard_or_false\nCaused by: (x.py:1159 in f)\n'
     'For more information, run with TORCH_LOGS="dynamic"\n\nThe error above occurred when calling torch.export.',
     'Could not guard on data-dependent expression Eq(u0, 1) (unhinted: Eq(u0, 1)).  (Size-like symbols: none)'),
    ("\nCould not export Python function call 'DeformConv'. Remove calls to Python functions before export. Did you "
     'forget to add @script annotation? If this is a nn.ModuleList, add it to __constants__:\n'
     '/site-packages/torch/autograd/function.py(596): apply\n/site-packages/torch/jit/_trace.py(1022): trace\n',
     "Could not export Python function call 'DeformConv'. Remove calls to Python functions before export. Did you "
     'forget to add @script annotation? If this is a nn.ModuleList, add it to __constants__:'),
    ('Exception from src/inference/src/cpp/core.cpp:97:\nUnable to read the model: x.xml Please check it.\nMore.',
     'Unable to read the model: x.xml Please check it.'),
    ('', 'ValueError'), ('Summary:', 'Summary:'), ('x' * 1000, 'x' * 300),
]


@pytest.mark.parametrize('message, expected', DUMPS)
def test_the_cause_is_the_line_that_names_an_operator_or_the_first(message, expected):
    assert cause(ValueError(message)) == expected
