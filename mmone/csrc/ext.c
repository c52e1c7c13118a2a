/* The Python module mmone._ext: what fused branches need on a CPU and PyTorch has no operators for. Statistics of
 * depthwise 3×3 convolutions are in depthwise.h, sums of BatchNorms in norm.h; reference.py has both as plain
 * loops. Tensors are channels_last: (N, H, W, C) in memory.
 *
 * It uses no header of PyTorch, so one build works with every version of it. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030a0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>
#define MAX_THREADS omp_get_max_threads()

/* Compiles a function for several instruction sets, of which the loader takes the best that the CPU has. Named by
 * features, since GCC 11 does not know levels (x86-64-v3) here, and takes names of CPUs for these alone. */
#if defined(__x86_64__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define CLONES
#endif

/* TAPS of a 3×3 kernel, numbered by rows; SUMS over patches for each channel (see pair_start); LANES channels in a
 * vector; up to UNROLL columns of a gradient at a time that share a kernel, OTHERS that do not. */
enum { TAPS = 9, SUMS = 6 * 9, LANES = 16, UNROLL = 8, OTHERS = 4 };

/* Of a depthwise convolution with padding equal to its dilation. */
typedef struct {
    ptrdiff_t images, channels, height, width, stride, dilation, out_height, out_width;
} Shape;

/* The rows of x, or its columns, grouped by which rows (columns) of taps read them: at the borders fewer do, and
 * with a stride not all. Bit i of taps[g] is set if tap i reads group g; the group of row h is group[h]; the rows of
 * group g are order[starts[g]] to order[starts[g + 1] - 1], ascending. */
typedef struct {
    int count;
    const int32_t *taps, *group, *order, *starts;
} TapGroups;

/* SUMS are for each pair of rows of taps a <= b, in the order 00 01 02 11 12 22, the nine sums over all outputs of
 * the products of a tap of a with a tap of b. With a = b, three of the nine products occur twice: their places hold
 * the sums of the row's three single taps. Where the nine sums of a and b start: */
static inline int pair_start(int a, int b)
{
    return 9 * (a * (5 - a) / 2 + b);
}

/* Where the sum of p[a] p[b] is, for taps a and b. */
static int product_sum(int a, int b)
{
    if (a > b) return product_sum(b, a);
    return pair_start(a / 3, b / 3) + a % 3 * 3 + b % 3;
}

/* Where the sum of p[a] is. */
static int tap_sum(int a)
{
    return pair_start(a / 3, a / 3) + (a % 3 == 0 ? 3 : 5 + a % 3);
}

/* How many of the LANES channels from `channel` on there are. */
static int lanes_from(ptrdiff_t channel, Shape s)
{
    return s.channels - channel < LANES ? (int)(s.channels - channel) : LANES;
}

/* The distances, in taps, at which there are values in one patch with a value that `taps` read: read by the last
 * tap, a value shares its patch with those one and two before it. */
typedef struct {
    int first, last;
} Reach;

static inline Reach reach_of(int taps)
{
    Reach reach = {taps & 4 ? -2 : taps & 2 ? -1 : 0, taps & 1 ? 2 : taps & 2 ? 1 : 0};
    return reach;
}

/* The sum of the BatchNorms of y and, unless it is NULL, x, both (rows, channels); see norm.h. The means and the
 * scales are those of y, then those of x; the bias is the sum of both; relu is whether a ReLU follows. */
typedef struct {
    const void *y, *x, *mean, *scale, *bias;
    ptrdiff_t rows, channels;
    int relu;
} NormSum;

#define REAL float
#define NAME(name) name##_float
#include "depthwise.h"
#include "norm.h"
#undef REAL
#undef NAME
#define REAL double
#define NAME(name) name##_double
#include "depthwise.h"
#include "norm.h"

/* Arguments from Python, which are not checked here: mmone/models/blocks/compiled.py alone calls these functions, and
 * checks what it gives them. Addresses are integers, from Tensor.data_ptr(). A Shape is the tuple (images, channels,
 * height, width, stride, dilation); TapGroups are (count, taps, group, order, starts), a NormSum is (rows, channels,
 * y, x, mean, scale, bias, relu), with addresses of arrays. */
#define POINTER(address) ((void *)(uintptr_t)(address))
#define CALL(name, ...) (is_double ? name##_double(__VA_ARGS__) : name##_float(__VA_ARGS__))

static int to_shape(PyObject *given, void *to)
{
    Shape *s = to;
    if (!PyArg_ParseTuple(given, "nnnnnn", &s->images, &s->channels, &s->height, &s->width, &s->stride,
                          &s->dilation)) return 0;
    s->out_height = (s->height - 1) / s->stride + 1;
    s->out_width = (s->width - 1) / s->stride + 1;
    return 1;
}

static int to_groups(PyObject *given, void *to)
{
    TapGroups *groups = to;
    unsigned long long taps, group, order, starts;
    if (!PyArg_ParseTuple(given, "iKKKK", &groups->count, &taps, &group, &order, &starts)) return 0;
    groups->taps = POINTER(taps), groups->group = POINTER(group);
    groups->order = POINTER(order), groups->starts = POINTER(starts);
    return 1;
}

static int to_norm_sum(PyObject *given, void *to)
{
    NormSum *s = to;
    unsigned long long y, x, mean, scale, bias;
    if (!PyArg_ParseTuple(given, "nnKKKKKp", &s->rows, &s->channels, &y, &x, &mean, &scale, &bias, &s->relu)) return 0;
    s->y = POINTER(y), s->x = POINTER(x);
    s->mean = POINTER(mean), s->scale = POINTER(scale), s->bias = POINTER(bias);
    return 1;
}

static PyObject *depthwise_statistics(PyObject *self, PyObject *args)
{
    int is_double, branches, skip, failed;
    unsigned long long x, kernels, mean, var, products, patch_mean;
    Shape s;
    if (!PyArg_ParseTuple(args, "pO&KKipKKKK", &is_double, to_shape, &s, &x, &kernels, &branches, &skip, &mean, &var,
                          &products, &patch_mean)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = CALL(depthwise_statistics, POINTER(x), POINTER(kernels), branches, skip, POINTER(mean), POINTER(var),
                  POINTER(products), POINTER(patch_mean), s);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *depthwise_gradient(PyObject *self, PyObject *args)
{
    int is_double, branches, skip, failed;
    unsigned long long x, kernels, products, patch_mean, grad_mean, grad_var, grad_kernels, grad_x;
    Shape s;
    TapGroups rows, columns;
    if (!PyArg_ParseTuple(args, "pO&KKipKKKKKKO&O&", &is_double, to_shape, &s, &x, &kernels, &branches, &skip,
                          &products, &patch_mean, &grad_mean, &grad_var, &grad_kernels, &grad_x, to_groups, &rows,
                          to_groups, &columns)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = CALL(depthwise_gradient, POINTER(x), POINTER(kernels), branches, skip, POINTER(products),
                  POINTER(patch_mean), POINTER(grad_mean), POINTER(grad_var), POINTER(grad_kernels), POINTER(grad_x), s,
                  &rows, &columns);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *norm_sum(PyObject *self, PyObject *args)
{
    int is_double;
    unsigned long long out;
    NormSum s;
    if (!PyArg_ParseTuple(args, "pO&K", &is_double, to_norm_sum, &s, &out)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(norm_sum, s, POINTER(out));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *norm_gradient_sums(PyObject *self, PyObject *args)
{
    int is_double, failed;
    unsigned long long grad, sums;
    NormSum s;
    if (!PyArg_ParseTuple(args, "pO&KK", &is_double, to_norm_sum, &s, &grad, &sums)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = CALL(norm_gradient_sums, s, POINTER(grad), POINTER(sums));
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *norm_gradient(PyObject *self, PyObject *args)
{
    int is_double, for_x;
    unsigned long long grad, slope, offset, out;
    NormSum s;
    if (!PyArg_ParseTuple(args, "pO&KKKpK", &is_double, to_norm_sum, &s, &grad, &slope, &offset, &for_x,
                          &out)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(norm_gradient, s, POINTER(grad), POINTER(slope), POINTER(offset), for_x, POINTER(out));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"depthwise_statistics", depthwise_statistics, METH_VARARGS,
     "Write mean and biased variance of every branch, and what the gradient needs."},
    {"depthwise_gradient", depthwise_gradient, METH_VARARGS,
     "Add what comes through the statistics to the gradients of the kernels and of x."},
    {"norm_sum", norm_sum, METH_VARARGS, "Write the sum of the BatchNorms, after its ReLU if any."},
    {"norm_gradient_sums", norm_gradient_sums, METH_VARARGS,
     "Write the sums over all rows of the gradient behind the ReLU, alone and times centred y and x."},
    {"norm_gradient", norm_gradient, METH_VARARGS, "Write the gradient of y, or add to that of x."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ext", NULL, -1, methods, NULL, NULL, NULL, NULL};

/* Counts up with what the functions above take: mmone/csrc/__init__.py knows which it calls. */
#define INTERFACE 1

PyMODINIT_FUNC PyInit__ext(void)
{
    PyObject *created = PyModule_Create(&module);
    if (created && PyModule_AddIntConstant(created, "INTERFACE", INTERFACE)) {
        Py_DECREF(created);
        return NULL;
    }
    return created;
}
