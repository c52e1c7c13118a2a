/* What fused branches need that PyTorch has no operators for, on a CPU: statistics of depthwise 3×3
 * convolutions (depthwise.h), and sums of BatchNorms (norm.h). Tensors are channels_last, (N, H, W, C)
 * in memory.
 *
 * No header of PyTorch is needed, so what is built runs with every version of it. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030a0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>
#define MAX_THREADS omp_get_max_threads()

/* The same function for several instruction sets, chosen when the library is loaded. By features: GCC 11 does
 * not know their levels, and takes processors' names literally. */
#if defined(__x86_64__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define CLONES
#endif

enum { TAPS = 9, SUMS = 6 * 9, LANES = 16, UNROLL = 8, OTHERS = 4 };

typedef struct {
    ptrdiff_t images, channels, height, width, stride, dilation, out_height, out_width;
} Shape;

/* Rows or columns in parts, by the taps through which outputs see them, of which `taps` has a bit
 * each. Part i is order[starts[i]] to order[starts[i + 1]], ascending; part[h] is the part of h. */
typedef struct {
    int count;
    const int32_t *taps, *part, *order, *starts;
} Parts;

/* For rows of taps a <= b, in order, 9 sums: the products of the taps of a with those of b. Where a is
 * b, three of them would be there twice, and are the sums of the single taps instead. */
static inline int row_pair(int a, int b)
{
    return 9 * (a * (5 - a) / 2 + b);
}

static int product_sum(int a, int b)
{
    if (a > b) return product_sum(b, a);
    return row_pair(a / 3, b / 3) + a % 3 * 3 + b % 3;
}

static int tap_sum(int a)
{
    return row_pair(a / 3, a / 3) + (a % 3 == 0 ? 3 : 5 + a % 3);
}

static int lanes_from(ptrdiff_t channel, Shape s)
{
    return s.channels - channel < LANES ? (int)(s.channels - channel) : LANES;
}

/* How far from a position are those that outputs see together with it, which see it through `taps`. */
typedef struct {
    int first, last;
} Reach;

static inline Reach reach_of(int taps)
{
    Reach reach = {taps & 4 ? -2 : taps & 2 ? -1 : 0, taps & 1 ? 2 : taps & 2 ? 1 : 0};
    return reach;
}

/* BatchNorms of y and, unless it is NULL, x, both (rows, channels) in memory, summed. Means and scales are those
 * of y, then those of x; the bias is the sum's. */
typedef struct {
    const void *y, *x, *mean, *scale, *bias;
    ptrdiff_t rows, channels;
    int relu;
} Sum;

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

/* Addresses come as integers, Tensor.data_ptr(); the shape as images, channels, height, width, stride
 * and dilation; parts as their number and the addresses of their arrays; a sum as rows, channels, the
 * addresses of y, x, means, scales and bias, and whether a ReLU follows. */
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

static int to_parts(PyObject *given, void *to)
{
    Parts *parts = to;
    unsigned long long taps, part, order, starts;
    if (!PyArg_ParseTuple(given, "iKKKK", &parts->count, &taps, &part, &order, &starts)) return 0;
    parts->taps = POINTER(taps), parts->part = POINTER(part);
    parts->order = POINTER(order), parts->starts = POINTER(starts);
    return 1;
}

static int to_sum(PyObject *given, void *to)
{
    Sum *s = to;
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
    failed = CALL(statistics, POINTER(x), POINTER(kernels), branches, skip, POINTER(mean), POINTER(var),
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
    Parts rows, columns;
    if (!PyArg_ParseTuple(args, "pO&KKipKKKKKKO&O&", &is_double, to_shape, &s, &x, &kernels, &branches, &skip,
                          &products, &patch_mean, &grad_mean, &grad_var, &grad_kernels, &grad_x, to_parts, &rows,
                          to_parts, &columns)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = CALL(add_gradient, POINTER(x), POINTER(kernels), branches, skip, POINTER(products), POINTER(patch_mean),
                  POINTER(grad_mean), POINTER(grad_var), POINTER(grad_kernels), POINTER(grad_x), s, &rows, &columns);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *norm_sum(PyObject *self, PyObject *args)
{
    int is_double;
    unsigned long long out;
    Sum s;
    if (!PyArg_ParseTuple(args, "pO&K", &is_double, to_sum, &s, &out)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(normalize, s, POINTER(out));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *norm_gradient_sums(PyObject *self, PyObject *args)
{
    int is_double, failed;
    unsigned long long grad, sums;
    Sum s;
    if (!PyArg_ParseTuple(args, "pO&KK", &is_double, to_sum, &s, &grad, &sums)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = CALL(gradient_sums, s, POINTER(grad), POINTER(sums));
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *norm_gradient(PyObject *self, PyObject *args)
{
    int is_double, of_x;
    unsigned long long grad, slope, offset, out;
    Sum s;
    if (!PyArg_ParseTuple(args, "pO&KKKpK", &is_double, to_sum, &s, &grad, &slope, &offset, &of_x, &out)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(gradient, s, POINTER(grad), POINTER(slope), POINTER(offset), of_x, POINTER(out));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"depthwise_statistics", depthwise_statistics, METH_VARARGS, "Mean and variance of every branch."},
    {"depthwise_gradient", depthwise_gradient, METH_VARARGS,
     "Add what comes through them to the gradients of kernels and x."},
    {"norm_sum", norm_sum, METH_VARARGS, "The normalized sum, after its ReLU if any."},
    {"norm_gradient_sums", norm_gradient_sums, METH_VARARGS, "What the gradients are made of."},
    {"norm_gradient", norm_gradient, METH_VARARGS, "The gradient of y, or add to that of x."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ext", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__ext(void)
{
    return PyModule_Create(&module);
}
