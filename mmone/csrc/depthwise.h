/* Statistics of depthwise 3×3 convolutions, for one type REAL; see ext.c. */

/* A vector of channels. The compiler splits it into what the machine has. */
typedef REAL NAME(Vector) __attribute__((vector_size(LANES * sizeof(REAL))));
#define VECTOR NAME(Vector)

static inline __attribute__((always_inline)) VECTOR NAME(load)(const REAL *at, int lanes)
{
    VECTOR value = {0};
    if (lanes == LANES) memcpy(&value, at, sizeof value);
    else memcpy(&value, at, lanes * sizeof(REAL));
    return value;
}

/* One row of `lanes` channels less the shift, with `padding` positions beside it; rows outside of x are padding. */
static inline __attribute__((always_inline)) void NAME(fill)(
    VECTOR *restrict to, const REAL *restrict x, VECTOR shift, Shape s, ptrdiff_t padding, ptrdiff_t row, int lanes)
{
    const int inside = row >= 0 && row < s.height;
    for (ptrdiff_t w = 0; w < padding; w++) to[w] = to[padding + s.width + w] = -shift;
    to += padding;
    /* Positions lie all channels apart: too far for the machine to guess the next row. */
    if (row + 1 >= 0 && row + 1 < s.height)
        for (ptrdiff_t w = 0; w < s.width; w++)
            __builtin_prefetch(x + ((row + 1) * s.width + w) * s.channels, 0, 2);
    if (inside)
        for (ptrdiff_t w = 0; w < s.width; w++)
            to[w] = NAME(load)(x + (row * s.width + w) * s.channels, lanes) - shift;
    else
        for (ptrdiff_t w = 0; w < s.width; w++) to[w] = -shift;
}

/* Adds the products of the taps of row `a` with those of row `b`, over a row of outputs. Of a row with itself,
 * three would be there twice, and are the sums of the single taps instead. */
static inline __attribute__((always_inline)) void NAME(multiply)(
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

/* The same of all outputs, for stride 1, of row `a` with itself, `b` and `c`: 27 sums.
 *
 * What tap i of a meets in tap j of another row is at a distance of j - i taps, and but for some positions at
 * both ends the pairs of one distance see the same products: these are summed once. */
static inline __attribute__((always_inline)) void NAME(multiply_rows)(
    VECTOR *restrict total, const VECTOR *a, const VECTOR *b, const VECTOR *c, Shape s)
{
    const ptrdiff_t d = s.dilation;
    VECTOR own[4] = {0}, next[5] = {0}, last[5] = {0};
    for (const VECTOR *at = a + 2 * d, *bt = b + 2 * d, *ct = c + 2 * d; at < a + s.width; at++, bt++, ct++) {
        const VECTOR value = *at;
        own[0] += value * value, own[1] += value * at[d], own[2] += value * at[2 * d], own[3] += value;
        next[0] += value * bt[-2 * d], next[1] += value * bt[-d], next[2] += value * bt[0];
        next[3] += value * bt[d], next[4] += value * bt[2 * d];
        last[0] += value * ct[-2 * d], last[1] += value * ct[-d], last[2] += value * ct[0];
        last[3] += value * ct[d], last[4] += value * ct[2 * d];
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            total[3 * i + j] = j < i ? own[3] : own[j - i];
            total[9 + 3 * i + j] = next[j - i + 2];
            total[18 + 3 * i + j] = last[j - i + 2];
        }
    total[3] = total[6] = total[7] = own[3];
    /* Of tap i, the outputs at both ends. */
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

/* Sums over images `first` to `last` of the channels from `x` on: for each two rows of taps, 9. `rows` has
 * room for three rows of taps and those between them. */
CLONES static void NAME(sum_lanes)(const REAL *restrict x, const REAL *restrict shift, double *restrict sums,
                                   VECTOR *restrict rows, Shape s, ptrdiff_t first, ptrdiff_t last, int lanes)
{
    const ptrdiff_t width = s.width + 2 * s.dilation, image = s.height * s.width * s.channels, d = s.dilation;
    const ptrdiff_t ring = 2 * d + 1;
    const VECTOR centre = NAME(load)(shift, lanes);
    /* A row of taps at a time where rows overlap, and an output's rows where they do not. */
    const int overlap = s.stride == 1 && s.width > 2 * d;
    const ptrdiff_t steps = overlap ? s.height + 2 * d : s.out_height;
    VECTOR total[SUMS] = {0};
    ptrdiff_t pending = 0;
    for (ptrdiff_t n = first; n < last; n++) {
        const REAL *at = x + n * image;
        if (overlap)
            for (ptrdiff_t row = 0; row < 2 * d; row++) NAME(fill)(rows + row * width, at, centre, s, d, row - d, lanes);
        for (ptrdiff_t step = 0; step < steps; step++) {
            if (overlap) {
                VECTOR own[27];
                NAME(fill)(rows + (step + 2 * d) % ring * width, at, centre, s, d, step + d, lanes);
                NAME(multiply_rows)(own, rows + step % ring * width, rows + (step + d) % ring * width,
                                    rows + (step + 2 * d) % ring * width, s);
                /* As row a of the taps of an output, with row b of them. */
                for (int a = 0, pair = 0; a < 3; a++)
                    for (int b = a; b < 3; b++, pair++)
                        if (step >= a * d && step < s.height + a * d)
                            for (int i = 0; i < 9; i++) total[9 * pair + i] += own[9 * (b - a) + i];
            } else {
                for (int tap = 0; tap < 3; tap++)
                    NAME(fill)(rows + tap * width, at, centre, s, d, step * s.stride + (tap - 1) * d, lanes);
                for (int a = 0, pair = 0; a < 3; a++)
                    for (int b = a; b < 3; b++, pair++) {
                        const VECTOR *row_a = rows + a * width, *row_b = rows + b * width;
                        if (a == b) NAME(multiply)(total + 9 * pair, row_a, row_b, s, 1);
                        else NAME(multiply)(total + 9 * pair, row_a, row_b, s, 0);
                    }
            }
            pending += s.out_width;
            /* Not many terms in one sum: what they round to would show in the variances. */
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

/* About what sums are taken: near the mean of each channel is enough for nothing to cancel. */
CLONES static void NAME(find_shift)(const REAL *restrict x, REAL *restrict shift, Shape s)
{
    const ptrdiff_t positions = s.images * s.height * s.width, step = positions / 256 | 1;
    ptrdiff_t count = 0;
    memset(shift, 0, s.channels * sizeof(REAL));
    for (ptrdiff_t at = 0; at < positions; at += step, count++)
        for (ptrdiff_t c = 0; c < s.channels; c++) shift[c] += x[at * s.channels + c];
    for (ptrdiff_t c = 0; c < s.channels; c++) shift[c] /= count;
}

/* Mean and variance of every branch from the sums over the patches of `lanes` channels; with what the gradient
 * needs again: the kernels times the covariance, and the mean of patches. */
CLONES static void NAME(finish)(const double *restrict sums, const REAL *restrict shift, const REAL *restrict kernels,
                                int branches, int skip, REAL *restrict mean, REAL *restrict var,
                                double *restrict products, double *restrict patch_mean, Shape s, int lanes)
{
    const double count = (double)s.images * s.out_height * s.out_width;
    double covariance[TAPS][TAPS][LANES], centred[TAPS][LANES], own[TAPS][LANES];
    for (int a = 0; a < TAPS; a++)
        for (int c = 0; c < lanes; c++) {
            centred[a][c] = sums[tap_sum(a) * LANES + c] / count;
            own[a][c] = centred[a][c] + shift[c];
            patch_mean[c * TAPS + a] = own[a][c];
        }
    for (int a = 0; a < TAPS; a++)
        for (int b = 0; b < TAPS; b++)
            for (int c = 0; c < lanes; c++)
                covariance[a][b][c] = sums[product_sum(a, b) * LANES + c] / count - centred[a][c] * centred[b][c];
    for (int branch = 0; branch < branches; branch++) {
        double first[LANES] = {0}, second[LANES] = {0};
        for (int b = 0; b < TAPS; b++) {
            double product[LANES] = {0};
            for (int a = 0; a < TAPS; a++)
                for (int c = 0; c < lanes; c++) product[c] += kernels[c * TAPS + a] * covariance[a][b][c];
            for (int c = 0; c < lanes; c++) {
                first[c] += kernels[c * TAPS + b] * own[b][c];
                second[c] += kernels[c * TAPS + b] * product[c];
                products[c * TAPS + b] = product[c];
            }
        }
        for (int c = 0; c < lanes; c++) {
            mean[c] = first[c];
            var[c] = second[c] > 0 ? second[c] : 0; /* rounding may leave less than nothing */
        }
        kernels += s.channels * TAPS, products += s.channels * TAPS, mean += s.channels, var += s.channels;
    }
    if (skip)
        for (int c = 0; c < lanes; c++) {
            mean[c] = own[TAPS / 2][c];
            var[c] = covariance[TAPS / 2][TAPS / 2][c];
        }
}

static int NAME(statistics)(const REAL *x, const REAL *kernels, int branches, int skip, REAL *mean, REAL *var,
                            double *products, double *patch_mean, Shape s)
{
    const ptrdiff_t blocks = (s.channels + LANES - 1) / LANES;
    ptrdiff_t parts = (4 * MAX_THREADS + blocks - 1) / blocks;
    if (parts > s.images) parts = s.images;
    double *sums = calloc(blocks * parts * SUMS * LANES, sizeof *sums);
    REAL *shift = malloc(s.channels * sizeof(REAL));
    int failed = !sums || !shift;
    if (!failed) {
        NAME(find_shift)(x, shift, s);
#pragma omp parallel for schedule(dynamic)
        for (ptrdiff_t task = 0; task < blocks * parts; task++) {
            const ptrdiff_t channel = task / parts * LANES, part = task % parts;
            VECTOR *rows = NULL;
            if (posix_memalign((void **)&rows, sizeof(VECTOR),
                               (2 * s.dilation + 1) * (s.width + 2 * s.dilation) * sizeof(VECTOR)))
                failed = 1;
            else
                NAME(sum_lanes)(x + channel, shift + channel, sums + task * SUMS * LANES, rows, s,
                                s.images * part / parts, s.images * (part + 1) / parts, lanes_from(channel, s));
            free(rows);
        }
#pragma omp parallel for
        for (ptrdiff_t block = 0; block < blocks; block++) {
            const ptrdiff_t channel = block * LANES;
            double *own = sums + block * parts * SUMS * LANES;
            /* In this order whatever thread was first: the same numbers each time. */
            for (ptrdiff_t part = 1; part < parts; part++)
                for (int i = 0; i < SUMS * LANES; i++) own[i] += own[part * SUMS * LANES + i];
            NAME(finish)(own, shift + channel, kernels + channel * TAPS, branches, skip, mean + channel, var + channel,
                         products + channel * TAPS, patch_mean + channel * TAPS, s, lanes_from(channel, s));
        }
    }
    free(shift);
    free(sums);
    return failed;
}

/* Adds to `count` values of a row of the gradient, `step` columns apart from `column` on, that share a kernel: a
 * constant, and for every row and column within reach a factor of what `rows` has there. */
static inline __attribute__((always_inline)) void NAME(add_values)(
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

/* The same of any columns, each with its own kernel. */
static inline __attribute__((always_inline)) void NAME(add_others)(
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

/* One row of the gradient. */
static inline __attribute__((always_inline)) void NAME(add_row)(
    const VECTOR *const *rows, const VECTOR *kernels, REAL *grad, Shape s, Reach down, const Parts *columns, int lanes,
    int whole)
{
    const Reach all = {-2, 2};
    const VECTOR *kernels_of[OTHERS];
    int32_t others[OTHERS];
    int count = 0;
    for (int part = 0; part < columns->count; part++, kernels += 26) {
        if (!columns->taps[part]) continue; /* no output sees them */
        const Reach right = reach_of(columns->taps[part]);
        const int32_t *at = columns->order + columns->starts[part], *end = columns->order + columns->starts[part + 1];
        const int inner = s.stride == 1 && s.dilation == 1 && columns->taps[part] == 7;
        while (at < end) {
            /* Those of a part are at least a stride apart. */
            const int many = end - at >= UNROLL && at[UNROLL - 1] - at[0] == (UNROLL - 1) * s.stride;
            const int some = end - at >= UNROLL / 2 && at[UNROLL / 2 - 1] - at[0] == (UNROLL / 2 - 1) * s.stride;
            if (whole && inner && many) {
                NAME(add_values)(rows, kernels, grad, s, down, all, *at, 1, 1, UNROLL);
                at += UNROLL;
            } else if (whole && inner && some) {
                NAME(add_values)(rows, kernels, grad, s, down, all, *at, 1, 1, UNROLL / 2);
                at += UNROLL / 2;
            } else if (whole && some) {
                NAME(add_values)(rows, kernels, grad, s, down, right, *at, s.stride, s.dilation, UNROLL / 2);
                at += UNROLL / 2;
            } else {
                kernels_of[count] = kernels, others[count++] = *at++;
                if (count == OTHERS) {
                    NAME(add_others)(rows, kernels_of, grad, s, down, others, OTHERS, lanes);
                    count = 0;
                }
            }
        }
    }
    for (int i = 0; i < count; i++) NAME(add_others)(rows, kernels_of + i, grad, s, down, others + i, 1, lanes);
}

/* Rows `first` to `last` of `lanes` channels of an image's gradient. `lines` has room
 * for the rows of x that five rows of taps span. */
CLONES static void NAME(add_rows)(const REAL *restrict x, const VECTOR *restrict kernels, REAL *restrict grad,
                                  Shape s, const Parts *rows, const Parts *columns, VECTOR *restrict lines,
                                  ptrdiff_t first, ptrdiff_t last, int lanes)
{
    const ptrdiff_t padding = 2 * s.dilation, width = s.width + 2 * padding, ring = 2 * padding + 1;
    const VECTOR zero = {0};
    for (ptrdiff_t row = first - padding; row < first + padding; row++)
        NAME(fill)(lines + (row + padding) % ring * width, x, zero, s, padding, row, lanes);
    for (ptrdiff_t h = first; h < last; h++) {
        const VECTOR *seen[5], *kernel = kernels + 26 * columns->count * rows->part[h];
        const Reach down = reach_of(rows->taps[rows->part[h]]);
        NAME(fill)(lines + (h + 2 * padding) % ring * width, x, zero, s, padding, h + padding, lanes);
        if (h + 1 < s.height)
            for (ptrdiff_t w = 0; w < s.width; w++)
                __builtin_prefetch(grad + ((h + 1) * s.width + w) * s.channels, 1, 2);
        for (int row = 0; row < 5; row++) seen[row] = lines + (h + row * s.dilation) % ring * width;
        if (lanes == LANES) NAME(add_row)(seen, kernel, grad + h * s.width * s.channels, s, down, columns, LANES, 1);
        else NAME(add_row)(seen, kernel, grad + h * s.width * s.channels, s, down, columns, lanes, 0);
    }
}

/* Adds to the kernels' gradient of `lanes` channels, and makes the kernels over x of each part of rows and of
 * columns: 5×5 factors and a constant. */
CLONES static void NAME(prepare)(const REAL *restrict kernels, int branches, int skip, const double *restrict products,
                                 const double *restrict patch_mean, const REAL *restrict grad_mean,
                                 const REAL *restrict grad_var, REAL *restrict grad_kernels, VECTOR *restrict over_x,
                                 Shape s, const Parts *rows, const Parts *columns, int lanes)
{
    const double count = (double)s.images * s.out_height * s.out_width;
    double factors[TAPS][TAPS][LANES] = {0}, constants[TAPS][LANES] = {0};
    for (int branch = 0; branch < branches; branch++) {
        for (int a = 0; a < TAPS; a++)
            for (int c = 0; c < lanes; c++) {
                const double of_mean = grad_mean[c], of_var = 2 * (double)grad_var[c];
                const double tap = kernels[c * TAPS + a];
                grad_kernels[c * TAPS + a] += of_var * products[c * TAPS + a] + of_mean * patch_mean[c * TAPS + a];
                constants[a][c] += of_mean / count * tap;
                for (int b = 0; b < TAPS; b++) factors[a][b][c] += of_var / count * tap * kernels[c * TAPS + b];
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

static int NAME(add_gradient)(const REAL *x, const REAL *kernels, int branches, int skip, const double *products,
                              const double *patch_mean, const REAL *grad_mean, const REAL *grad_var,
                              REAL *grad_kernels, REAL *grad, Shape s, const Parts *rows, const Parts *columns)
{
    const ptrdiff_t blocks = (s.channels + LANES - 1) / LANES, kernel_count = 26 * rows->count * columns->count;
    const ptrdiff_t padding = 2 * s.dilation, image = s.height * s.width * s.channels;
    VECTOR *over_x = NULL;
    if (grad && posix_memalign((void **)&over_x, sizeof(VECTOR), blocks * kernel_count * sizeof(VECTOR))) return 1;
#pragma omp parallel for
    for (ptrdiff_t channel = 0; channel < s.channels; channel += LANES)
        NAME(prepare)(kernels + channel * TAPS, branches, skip, products + channel * TAPS, patch_mean + channel * TAPS,
                      grad_mean + channel, grad_var + channel, grad_kernels + channel * TAPS,
                      grad ? over_x + channel / LANES * kernel_count : NULL, s, rows, columns, lanes_from(channel, s));
    if (!grad) return 0;

    ptrdiff_t parts = (4 * MAX_THREADS + blocks * s.images - 1) / (blocks * s.images);
    if (parts > s.height) parts = s.height;
    int failed = 0;
#pragma omp parallel for schedule(dynamic)
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
