/* Statistics of depthwise 3×3 convolutions and their gradient, for one type REAL: ext.c includes this file
 * for float and for double. reference.py computes the same by plain loops.
 *
 * Forward. An output of the branch with kernel w is y = Σ_a w[a] p[a], where p is the patch of nine values of x
 * under the taps, zeros outside of the image. Over all outputs
 *
 *     mean(y) = Σ_a w[a] mean(p[a]),    var(y) = Σ_a,b w[a] w[b] cov(p[a], p[b]),
 *
 * so that all branches need the same nine sums Σ p[a] and 45 sums Σ p[a] p[b] of each channel. They are taken in
 * one pass over x, of x less a shift: of values far from zero, mean(y²) - mean(y)² would cancel.
 *
 * Backward. With the gradients dmean and dvar of a branch's statistics, the gradient of patch p is F p + f, where
 *
 *     F = Σ_branches 2 dvar / count w wᵀ,    f = Σ_branches dmean / count w - F mean(p).
 *
 * A value of x is part of as many patches as there are taps that read it. Summed over these its gradient is a 5×5
 * convolution of x plus a constant. Its kernel depends on which taps read the value: see TapGroups in ext.c.
 *
 * x is (N, H, W, C), C contiguous. Channels are independent of each other, and processed LANES at a time. */

/* One value for each of LANES channels; the compiler splits it into the registers that the machine has. */
typedef REAL NAME(Vector) __attribute__((vector_size(LANES * sizeof(REAL))));
#define VECTOR NAME(Vector)

/* `lanes` values, and zeros for the rest. */
static inline __attribute__((always_inline)) VECTOR NAME(load)(const REAL *at, int lanes)
{
    VECTOR value = {0};
    if (lanes == LANES) memcpy(&value, at, sizeof value);
    else memcpy(&value, at, lanes * sizeof(REAL));
    return value;
}

/* Copies a row of an image, `lanes` channels of it, with `padding` zeros at both ends, all less the shift. A row
 * outside of the image is zeros, too. */
static inline __attribute__((always_inline)) void NAME(load_row)(
    VECTOR *restrict to, const REAL *restrict x, VECTOR shift, Shape s, ptrdiff_t padding, ptrdiff_t row, int lanes)
{
    const int inside = row >= 0 && row < s.height;
    for (ptrdiff_t w = 0; w < padding; w++) to[w] = to[padding + s.width + w] = -shift;
    to += padding;
    /* Values of one channel lie C apart, too far for the hardware's prefetcher: ask for the next row here. */
    if (row + 1 >= 0 && row + 1 < s.height)
        for (ptrdiff_t w = 0; w < s.width; w++)
            __builtin_prefetch(x + ((row + 1) * s.width + w) * s.channels, 0, 2);
    if (inside)
        for (ptrdiff_t w = 0; w < s.width; w++)
            to[w] = NAME(load)(x + (row * s.width + w) * s.channels, lanes) - shift;
    else
        for (ptrdiff_t w = 0; w < s.width; w++) to[w] = -shift;
}

/* Adds the nine sums of a pair of rows of taps (see pair_start in ext.c) over one row of outputs: `a` and `b` are
 * the padded rows of x that these taps read, `same` whether they are one row. */
static inline __attribute__((always_inline)) void NAME(add_row_products)(
    VECTOR *restrict total, const VECTOR *a, const VECTOR *b, Shape s, int same)
{
    VECTOR sum[9] = {0};
    for (ptrdiff_t column = 0; column < s.out_width; column++) {
        const VECTOR *at = a + column * s.stride, *bt = b + column * s.stride;
        VECTOR a0 = at[0], a1 = at[s.dilation], a2 = at[2 * s.dilation];
        VECTOR b0 = bt[0], b1 = bt[s.dilation], b2 = bt[2 * s.dilation];
        sum[0] += a0 * b0, sum[1] += a0 * b1, sum[2] += a0 * b2;
        sum[4] += a1 * b1, sum[5] += a1 * b2, sum[8] += a2 * b2;
        if (same) sum[3] += a0, sum[6] += a1, sum[7] += a2;
        else sum[3] += a1 * b0, sum[6] += a2 * b0, sum[7] += a2 * b1;
    }
    for (int i = 0; i < 9; i++) total[i] += sum[i];
}

/* The sums of three pairs of rows at once, for stride 1: row `a` with itself, with `b` and with `c`, 27 sums.
 *
 * At stride 1, tap i of one row and tap j of the other see pairs of values at a distance of j - i taps. All pairs
 * of taps at one distance see the same pairs of values but for some at both ends of the row. So the products are
 * summed once for each distance over the columns that all share, and the ends are added for each pair of taps. */
static inline __attribute__((always_inline)) void NAME(stride_1_products)(
    VECTOR *restrict total, const VECTOR *a, const VECTOR *b, const VECTOR *c, Shape s)
{
    const ptrdiff_t d = s.dilation;
    VECTOR with_a[4] = {0}, with_b[5] = {0}, with_c[5] = {0}; /* with_a[3]: the sum of the single values */
    for (const VECTOR *at = a + 2 * d, *bt = b + 2 * d, *ct = c + 2 * d; at < a + s.width; at++, bt++, ct++) {
        const VECTOR value = *at;
        with_a[0] += value * value, with_a[1] += value * at[d], with_a[2] += value * at[2 * d], with_a[3] += value;
        with_b[0] += value * bt[-2 * d], with_b[1] += value * bt[-d], with_b[2] += value * bt[0];
        with_b[3] += value * bt[d], with_b[4] += value * bt[2 * d];
        with_c[0] += value * ct[-2 * d], with_c[1] += value * ct[-d], with_c[2] += value * ct[0];
        with_c[3] += value * ct[d], with_c[4] += value * ct[2 * d];
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            total[3 * i + j] = j < i ? with_a[3] : with_a[j - i];
            total[9 + 3 * i + j] = with_b[j - i + 2];
            total[18 + 3 * i + j] = with_c[j - i + 2];
        }
    total[3] = total[6] = total[7] = with_a[3];
    /* The outputs whose tap i is not in the columns of the loop above. */
    for (int i = 0; i < 3; i++) {
        const ptrdiff_t before = (2 - i) * d, after = s.width - i * d;
        for (ptrdiff_t end = 0; end < 2 * d; end++) {
            const ptrdiff_t output = end < before ? end : after + end - before;
            const VECTOR value = a[output + i * d];
            for (int j = 0; j < 3; j++) {
                if (j >= i) total[3 * i + j] += value * a[output + j * d];
                total[9 + 3 * i + j] += value * b[output + j * d];
                total[18 + 3 * i + j] += value * c[output + j * d];
            }
            total[i == 0 ? 3 : 5 + i] += value;
        }
    }
}

/* All SUMS sums of `lanes` channels, from the one that `x` and `shift` point to, over images `first` to `last`.
 * `rows` has room for the 2 dilation + 1 padded rows that a column of taps spans. */
CLONES static void NAME(sum_products)(const REAL *restrict x, const REAL *restrict shift, double *restrict sums,
                                      VECTOR *restrict rows, Shape s, ptrdiff_t first, ptrdiff_t last, int lanes)
{
    const ptrdiff_t width = s.width + 2 * s.dilation, image = s.height * s.width * s.channels, d = s.dilation;
    const ptrdiff_t ring = 2 * d + 1;
    const VECTOR centre = NAME(load)(shift, lanes);
    /* Stride 1: each step loads one row of x and takes its products with the rows before it, whichever taps read
     * them. Otherwise, and where rows are too short for that: each step takes the three rows of a row of outputs. */
    const int overlap = s.stride == 1 && s.width > 2 * d;
    const ptrdiff_t steps = overlap ? s.height + 2 * d : s.out_height;
    VECTOR total[SUMS] = {0};
    ptrdiff_t pending = 0;
    for (ptrdiff_t n = first; n < last; n++) {
        const REAL *at = x + n * image;
        if (overlap)
            for (ptrdiff_t row = 0; row < 2 * d; row++)
                NAME(load_row)(rows + row * width, at, centre, s, d, row - d, lanes);
        for (ptrdiff_t step = 0; step < steps; step++) {
            if (overlap) {
                VECTOR products[27];
                NAME(load_row)(rows + (step + 2 * d) % ring * width, at, centre, s, d, step + d, lanes);
                NAME(stride_1_products)(products, rows + step % ring * width, rows + (step + d) % ring * width,
                                        rows + (step + 2 * d) % ring * width, s);
                /* For every pair of rows of taps, a and b, of which some row of outputs reads these two rows. */
                for (int a = 0, pair = 0; a < 3; a++)
                    for (int b = a; b < 3; b++, pair++)
                        if (step >= a * d && step < s.height + a * d)
                            for (int i = 0; i < 9; i++) total[9 * pair + i] += products[9 * (b - a) + i];
            } else {
                for (int tap = 0; tap < 3; tap++)
                    NAME(load_row)(rows + tap * width, at, centre, s, d, step * s.stride + (tap - 1) * d, lanes);
                for (int a = 0, pair = 0; a < 3; a++)
                    for (int b = a; b < 3; b++, pair++) {
                        const VECTOR *row_a = rows + a * width, *row_b = rows + b * width;
                        if (a == b) NAME(add_row_products)(total + 9 * pair, row_a, row_b, s, 1);
                        else NAME(add_row_products)(total + 9 * pair, row_a, row_b, s, 0);
                    }
            }
            pending += s.out_width;
            /* A REAL takes few terms before they go to a double: rounding would show in the variances. */
            if (pending >= 256 || (n == last - 1 && step == steps - 1)) {
                for (int sum = 0; sum < SUMS; sum++) {
                    for (int c = 0; c < LANES; c++) sums[sum * LANES + c] += total[sum][c];
                    total[sum] = (VECTOR){0};
                }
                pending = 0;
            }
        }
    }
}

/* The shift of each channel: its mean over some 256 positions, which is near enough for nothing to cancel. */
CLONES static void NAME(find_shift)(const REAL *restrict x, REAL *restrict shift, Shape s)
{
    const ptrdiff_t positions = s.images * s.height * s.width, step = positions / 256 | 1;
    ptrdiff_t count = 0;
    memset(shift, 0, s.channels * sizeof(REAL));
    for (ptrdiff_t at = 0; at < positions; at += step, count++)
        for (ptrdiff_t c = 0; c < s.channels; c++) shift[c] += x[at * s.channels + c];
    for (ptrdiff_t c = 0; c < s.channels; c++) shift[c] /= count;
}

/* From the sums of `lanes` channels: mean and biased variance of every branch, and for the backward pass the
 * products cov(p) w of each branch, (branches, C, 9), and mean(p), (C, 9). */
CLONES static void NAME(finish_statistics)(const double *restrict sums, const REAL *restrict shift,
                                           const REAL *restrict kernels, int branches, int skip, REAL *restrict mean,
                                           REAL *restrict var, double *restrict products, double *restrict patch_mean,
                                           Shape s, int lanes)
{
    const double count = (double)s.images * s.out_height * s.out_width;
    double covariance[TAPS][TAPS][LANES], centred_mean[TAPS][LANES], tap_mean[TAPS][LANES];
    for (int a = 0; a < TAPS; a++)
        for (int c = 0; c < lanes; c++) {
            centred_mean[a][c] = sums[tap_sum(a) * LANES + c] / count;
            tap_mean[a][c] = centred_mean[a][c] + shift[c];
            patch_mean[c * TAPS + a] = tap_mean[a][c];
        }
    for (int a = 0; a < TAPS; a++)
        for (int b = 0; b < TAPS; b++)
            for (int c = 0; c < lanes; c++)
                covariance[a][b][c] =
                    sums[product_sum(a, b) * LANES + c] / count - centred_mean[a][c] * centred_mean[b][c];
    for (int branch = 0; branch < branches; branch++) {
        double branch_mean[LANES] = {0}, branch_var[LANES] = {0};
        for (int b = 0; b < TAPS; b++) {
            double product[LANES] = {0};
            for (int a = 0; a < TAPS; a++)
                for (int c = 0; c < lanes; c++) product[c] += kernels[c * TAPS + a] * covariance[a][b][c];
            for (int c = 0; c < lanes; c++) {
                branch_mean[c] += kernels[c * TAPS + b] * tap_mean[b][c];
                branch_var[c] += kernels[c * TAPS + b] * product[c];
                products[c * TAPS + b] = product[c];
            }
        }
        for (int c = 0; c < lanes; c++) {
            mean[c] = branch_mean[c];
            var[c] = branch_var[c] <= 0 ? 0 : branch_var[c]; /* rounding may leave it negative; NaN stays */
        }
        kernels += s.channels * TAPS, products += s.channels * TAPS, mean += s.channels, var += s.channels;
    }
    if (skip) /* the branch that is x itself, under the centre tap */
        for (int c = 0; c < lanes; c++) {
            mean[c] = tap_mean[TAPS / 2][c];
            var[c] = covariance[TAPS / 2][TAPS / 2][c] <= 0 ? 0 : covariance[TAPS / 2][TAPS / 2][c];
        }
}

/* Returns whether memory ran out. */
static int NAME(depthwise_statistics)(const REAL *x, const REAL *kernels, int branches, int skip, REAL *mean,
                                      REAL *var, double *products, double *patch_mean, Shape s)
{
    /* A task sums LANES channels of some of the images. */
    const ptrdiff_t blocks = (s.channels + LANES - 1) / LANES;
    ptrdiff_t parts = (4 * MAX_THREADS + blocks - 1) / blocks;
    if (parts > s.images) parts = s.images;
    double *sums = calloc(blocks * parts * SUMS * LANES, sizeof *sums);
    REAL *shift = malloc(s.channels * sizeof(REAL));
    int failed = !sums || !shift;
    if (!failed) {
        NAME(find_shift)(x, shift, s);
#pragma omp parallel for schedule(dynamic) reduction(| : failed)
        for (ptrdiff_t task = 0; task < blocks * parts; task++) {
            const ptrdiff_t channel = task / parts * LANES, part = task % parts;
            VECTOR *rows = NULL;
            if (posix_memalign((void **)&rows, sizeof(VECTOR),
                               (2 * s.dilation + 1) * (s.width + 2 * s.dilation) * sizeof(VECTOR)))
                failed = 1;
            else
                NAME(sum_products)(x + channel, shift + channel, sums + task * SUMS * LANES, rows, s,
                                   s.images * part / parts, s.images * (part + 1) / parts, lanes_from(channel, s));
            free(rows);
        }
#pragma omp parallel for
        for (ptrdiff_t block = 0; block < blocks; block++) {
            const ptrdiff_t channel = block * LANES;
            double *total = sums + block * parts * SUMS * LANES;
            /* In this order, whichever thread finished first: the same numbers each time. */
            for (ptrdiff_t part = 1; part < parts; part++)
                for (int i = 0; i < SUMS * LANES; i++) total[i] += total[part * SUMS * LANES + i];
            NAME(finish_statistics)(total, shift + channel, kernels + channel * TAPS, branches, skip, mean + channel,
                                    var + channel, products + channel * TAPS, patch_mean + channel * TAPS, s,
                                    lanes_from(channel, s));
        }
    }
    free(shift);
    free(sums);
    return failed;
}

/* Adds the gradient to `count` values of a row of grad, at columns `column`, `column + step`, …, which one kernel
 * serves: 25 factors and a constant. `rows` are the five padded rows of x under the kernel. */
static inline __attribute__((always_inline)) void NAME(add_run)(
    const VECTOR *const *rows, const VECTOR *kernel, REAL *grad, Shape s, Reach down, Reach right, ptrdiff_t column,
    ptrdiff_t step, ptrdiff_t dilation, int count)
{
    VECTOR sum[UNROLL];
    for (int i = 0; i < count; i++) sum[i] = NAME(load)(grad + (column + i * step) * s.channels, LANES) + kernel[25];
    for (int y = down.first; y <= down.last; y++) {
        const VECTOR *at = rows[y + 2] + column, *factors = kernel + (y + 2) * 5;
#pragma GCC unroll 5
        for (int x = right.first + 2; x <= right.last + 2; x++)
            for (int i = 0; i < count; i++) sum[i] += factors[x] * at[i * step + x * dilation];
    }
    for (int i = 0; i < count; i++) memcpy(grad + (column + i * step) * s.channels, &sum[i], sizeof sum[i]);
}

/* The same for any columns, each with a kernel of its own. */
static inline __attribute__((always_inline)) void NAME(add_columns)(
    const VECTOR *const *rows, const VECTOR *const *kernels, REAL *grad, Shape s, Reach down, const int32_t *columns,
    int count, int lanes)
{
    VECTOR sum[OTHERS];
    for (int i = 0; i < count; i++) sum[i] = NAME(load)(grad + columns[i] * s.channels, lanes) + kernels[i][25];
    for (int y = down.first; y <= down.last; y++)
        for (int x = 0; x < 5; x++)
            for (int i = 0; i < count; i++)
                sum[i] += kernels[i][(y + 2) * 5 + x] * rows[y + 2][columns[i] + x * s.dilation];
    for (int i = 0; i < count; i++) memcpy(grad + columns[i] * s.channels, &sum[i], lanes * sizeof(REAL));
}

/* Adds the gradient to one row of grad. `kernels` are those of this row's tap group, one for each group of
 * columns. `whole`: all LANES are in use, so that runs of columns can be taken at once. */
static inline __attribute__((always_inline)) void NAME(add_row)(
    const VECTOR *const *rows, const VECTOR *kernels, REAL *grad, Shape s, Reach down, const TapGroups *columns,
    int lanes, int whole)
{
    const Reach all = {-2, 2};
    const VECTOR *other_kernels[OTHERS];
    int32_t others[OTHERS];
    int count = 0;
    for (int group = 0; group < columns->count; group++, kernels += 26) {
        if (!columns->taps[group]) continue; /* no output reads them */
        const Reach right = reach_of(columns->taps[group]);
        const int32_t *at = columns->order + columns->starts[group];
        const int32_t *end = columns->order + columns->starts[group + 1];
        const int inner = s.stride == 1 && s.dilation == 1 && columns->taps[group] == 7;
        while (at < end) {
            /* Columns of a group ascend and are at least a stride apart: these tell whether the next ones are
             * exactly a stride apart. */
            const int many = end - at >= UNROLL && at[UNROLL - 1] - at[0] == (UNROLL - 1) * s.stride;
            const int some = end - at >= UNROLL / 2 && at[UNROLL / 2 - 1] - at[0] == (UNROLL / 2 - 1) * s.stride;
            if (whole && inner && many) {
                NAME(add_run)(rows, kernels, grad, s, down, all, *at, 1, 1, UNROLL);
                at += UNROLL;
            } else if (whole && inner && some) {
                NAME(add_run)(rows, kernels, grad, s, down, all, *at, 1, 1, UNROLL / 2);
                at += UNROLL / 2;
            } else if (whole && some) {
                NAME(add_run)(rows, kernels, grad, s, down, right, *at, s.stride, s.dilation, UNROLL / 2);
                at += UNROLL / 2;
            } else {
                other_kernels[count] = kernels, others[count++] = *at++;
                if (count == OTHERS) {
                    NAME(add_columns)(rows, other_kernels, grad, s, down, others, OTHERS, lanes);
                    count = 0;
                }
            }
        }
    }
    for (int i = 0; i < count; i++)
        NAME(add_columns)(rows, other_kernels + i, grad, s, down, others + i, 1, lanes);
}

/* Adds the gradient to rows `first` to `last` of an image of grad, `lanes` channels of it. `lines` has room for
 * the 4 dilation + 1 padded rows of x that a 5×5 kernel spans. */
CLONES static void NAME(add_rows)(const REAL *restrict x, const VECTOR *restrict kernels, REAL *restrict grad,
                                  Shape s, const TapGroups *rows, const TapGroups *columns, VECTOR *restrict lines,
                                  ptrdiff_t first, ptrdiff_t last, int lanes)
{
    const ptrdiff_t padding = 2 * s.dilation, width = s.width + 2 * padding, ring = 2 * padding + 1;
    const VECTOR zero = {0};
    for (ptrdiff_t row = first - padding; row < first + padding; row++)
        NAME(load_row)(lines + (row + padding) % ring * width, x, zero, s, padding, row, lanes);
    for (ptrdiff_t h = first; h < last; h++) {
        const VECTOR *under[5], *kernel = kernels + 26 * columns->count * rows->group[h];
        const Reach down = reach_of(rows->taps[rows->group[h]]);
        NAME(load_row)(lines + (h + 2 * padding) % ring * width, x, zero, s, padding, h + padding, lanes);
        if (h + 1 < s.height)
            for (ptrdiff_t w = 0; w < s.width; w++)
                __builtin_prefetch(grad + ((h + 1) * s.width + w) * s.channels, 1, 2);
        for (int row = 0; row < 5; row++) under[row] = lines + (h + row * s.dilation) % ring * width;
        if (lanes == LANES) NAME(add_row)(under, kernel, grad + h * s.width * s.channels, s, down, columns, LANES, 1);
        else NAME(add_row)(under, kernel, grad + h * s.width * s.channels, s, down, columns, lanes, 0);
    }
}

/* Of `lanes` channels: adds to the gradient of the kernels, and builds the 5×5 kernels, 25 factors and a constant,
 * of every group of rows with every group of columns in `over_x`, unless that is NULL. */
CLONES static void NAME(prepare_gradient)(const REAL *restrict kernels, int branches, int skip,
                                          const double *restrict products, const double *restrict patch_mean,
                                          const REAL *restrict grad_mean, const REAL *restrict grad_var,
                                          REAL *restrict grad_kernels, VECTOR *restrict over_x, Shape s,
                                          const TapGroups *rows, const TapGroups *columns, int lanes)
{
    const double count = (double)s.images * s.out_height * s.out_width;
    /* F and f of the head of this file. */
    double factors[TAPS][TAPS][LANES] = {0}, constants[TAPS][LANES] = {0};
    for (int branch = 0; branch < branches; branch++) {
        for (int a = 0; a < TAPS; a++)
            for (int c = 0; c < lanes; c++) {
                const double dmean = grad_mean[c], dvar_2 = 2 * (double)grad_var[c];
                const double tap = kernels[c * TAPS + a];
                grad_kernels[c * TAPS + a] += dvar_2 * products[c * TAPS + a] + dmean * patch_mean[c * TAPS + a];
                constants[a][c] += dmean / count * tap;
                for (int b = 0; b < TAPS; b++) factors[a][b][c] += dvar_2 / count * tap * kernels[c * TAPS + b];
            }
        kernels += s.channels * TAPS, products += s.channels * TAPS, grad_kernels += s.channels * TAPS;
        grad_mean += s.channels, grad_var += s.channels;
    }
    if (!over_x) return;
    if (skip)
        for (int c = 0; c < lanes; c++) {
            factors[TAPS / 2][TAPS / 2][c] += 2 * (double)grad_var[c] / count;
            constants[TAPS / 2][c] += grad_mean[c] / count;
        }
    for (int a = 0; a < TAPS; a++)
        for (int b = 0; b < TAPS; b++)
            for (int c = 0; c < lanes; c++) constants[a][c] -= factors[a][b][c] * patch_mean[c * TAPS + b];
    for (int i = 0; i < rows->count; i++)
        for (int j = 0; j < columns->count; j++, over_x += 26) {
            double kernel[26][LANES] = {0};
            /* Read by tap a, a value shares a patch with those that are b - a away, for every tap b. */
            for (int a = 0; a < TAPS; a++) {
                if (!(rows->taps[i] >> a / 3 & 1 && columns->taps[j] >> a % 3 & 1)) continue;
                for (int c = 0; c < lanes; c++) kernel[25][c] += constants[a][c];
                for (int b = 0; b < TAPS; b++) {
                    double *at = kernel[(b / 3 - a / 3 + 2) * 5 + b % 3 - a % 3 + 2];
                    for (int c = 0; c < lanes; c++) at[c] += factors[a][b][c];
                }
            }
            for (int k = 0; k < 26; k++)
                for (int c = 0; c < LANES; c++) over_x[k][c] = kernel[k][c];
        }
}

/* Adds to grad_kernels and, unless it is NULL, to grad. Returns whether memory ran out. */
static int NAME(depthwise_gradient)(const REAL *x, const REAL *kernels, int branches, int skip, const double *products,
                                    const double *patch_mean, const REAL *grad_mean, const REAL *grad_var,
                                    REAL *grad_kernels, REAL *grad, Shape s, const TapGroups *rows,
                                    const TapGroups *columns)
{
    const ptrdiff_t blocks = (s.channels + LANES - 1) / LANES, kernel_count = 26 * rows->count * columns->count;
    const ptrdiff_t padding = 2 * s.dilation, image = s.height * s.width * s.channels;
    VECTOR *over_x = NULL;
    if (grad && posix_memalign((void **)&over_x, sizeof(VECTOR), blocks * kernel_count * sizeof(VECTOR))) return 1;
#pragma omp parallel for
    for (ptrdiff_t channel = 0; channel < s.channels; channel += LANES)
        NAME(prepare_gradient)(kernels + channel * TAPS, branches, skip, products + channel * TAPS,
                               patch_mean + channel * TAPS, grad_mean + channel, grad_var + channel,
                               grad_kernels + channel * TAPS, grad ? over_x + channel / LANES * kernel_count : NULL, s,
                               rows, columns, lanes_from(channel, s));
    if (!grad) return 0;

    /* A task is LANES channels of some of the rows of an image. */
    ptrdiff_t parts = (4 * MAX_THREADS + blocks * s.images - 1) / (blocks * s.images);
    if (parts > s.height) parts = s.height;
    int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : failed)
    for (ptrdiff_t task = 0; task < blocks * s.images * parts; task++) {
        const ptrdiff_t part = task % parts, block = task / parts % blocks, n = task / parts / blocks;
        const ptrdiff_t at = n * image + block * LANES;
        VECTOR *lines = NULL;
        if (posix_memalign((void **)&lines, sizeof(VECTOR),
                           (2 * padding + 1) * (s.width + 2 * padding) * sizeof(VECTOR)))
            failed = 1;
        else
            NAME(add_rows)(x + at, over_x + block * kernel_count, grad + at, s, rows, columns, lines,
                           s.height * part / parts, s.height * (part + 1) / parts, lanes_from(block * LANES, s));
        free(lines);
    }
    free(over_x);
    return failed;
}
#undef VECTOR
