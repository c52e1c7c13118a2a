/* Statistics of depthwise 3×3 convolutions on a CPU: what mmone/models/fused_branches.py says of
 * them, in one pass over the input. Tensors are channels_last, (N, H, W, C) in memory.
 *
 * No header of PyTorch is needed, so what is built runs with every version of it. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030a0000
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#define MAX_THREADS omp_get_max_threads()
#else
#define MAX_THREADS 1
#endif

/* The same function for several instruction sets, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

enum { TAPS = 9, SUMS = 6 * 9, LANES = 16, UNROLL = 4 };

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

#define REAL float
#define NAME(name) name##_float
#include "depthwise.h"
#undef REAL
#undef NAME
#define REAL double
#define NAME(name) name##_double
#include "depthwise.h"

/* Addresses come as integers, Tensor.data_ptr(); the shape as images, channels, height, width, stride
 * and dilation; parts as their number and the addresses of their arrays. */
#define POINTER(address) ((void *)(uintptr_t)(address))

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

static PyObject *statistics(PyObject *self, PyObject *args)
{
    int is_double, branches, skip, failed = 1;
    unsigned long long x, shift, kernels, mean, var, products, patch_mean;
    Shape s;
    if (!PyArg_ParseTuple(args, "pO&KKKipKKKK", &is_double, to_shape, &s, &x, &shift, &kernels, &branches, &skip,
                          &mean, &var, &products, &patch_mean)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    double *sums = calloc(SUMS * s.channels, sizeof *sums);
    if (sums && is_double) {
        failed = patch_sums_double(POINTER(x), POINTER(shift), sums, s);
        finish_double(sums, POINTER(shift), POINTER(kernels), branches, skip, POINTER(mean), POINTER(var),
                      POINTER(products), POINTER(patch_mean), s);
    } else if (sums) {
        failed = patch_sums_float(POINTER(x), POINTER(shift), sums, s);
        finish_float(sums, POINTER(shift), POINTER(kernels), branches, skip, POINTER(mean), POINTER(var),
                     POINTER(products), POINTER(patch_mean), s);
    }
    free(sums);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *add_gradient(PyObject *self, PyObject *args)
{
    int is_double, branches, skip, failed = 0;
    unsigned long long x, kernels, products, patch_mean, grad_mean, grad_var, grad_kernels, grad_x;
    Shape s;
    Parts rows, columns;
    if (!PyArg_ParseTuple(args, "pO&KKipKKKKKKO&O&", &is_double, to_shape, &s, &x, &kernels, &branches, &skip,
                          &products, &patch_mean, &grad_mean, &grad_var, &grad_kernels, &grad_x, to_parts, &rows,
                          to_parts, &columns)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    void *over_x = NULL;
    if (grad_x) {
        over_x = malloc(rows.count * columns.count * 26 * s.channels * (is_double ? sizeof(double) : sizeof(float)));
        failed = !over_x;
    }
    if (!failed && is_double) {
        prepare_double(POINTER(kernels), branches, skip, POINTER(products), POINTER(patch_mean), POINTER(grad_mean),
                       POINTER(grad_var), POINTER(grad_kernels), over_x, s, &rows, &columns);
        if (grad_x) add_gradient_double(POINTER(x), over_x, POINTER(grad_x), s, &rows, &columns);
    } else if (!failed) {
        prepare_float(POINTER(kernels), branches, skip, POINTER(products), POINTER(patch_mean), POINTER(grad_mean),
                      POINTER(grad_var), POINTER(grad_kernels), over_x, s, &rows, &columns);
        if (grad_x) add_gradient_float(POINTER(x), over_x, POINTER(grad_x), s, &rows, &columns);
    }
    free(over_x);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"statistics", statistics, METH_VARARGS, "Mean and variance of every branch."},
    {"add_gradient", add_gradient, METH_VARARGS, "Add what comes through them to the gradients of kernels and x."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_depthwise", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__depthwise(void)
{
    return PyModule_Create(&module);
}
