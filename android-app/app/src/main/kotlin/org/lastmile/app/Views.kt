package org.lastmile.app

import android.content.Context
import android.content.res.Configuration
import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.Path
import android.graphics.RectF
import android.text.TextPaint
import android.text.TextUtils
import android.util.AttributeSet
import android.util.TypedValue
import android.view.MotionEvent
import android.view.View
import org.lastmile.inference.Images
import org.lastmile.inference.Pixels
import org.lastmile.inference.Score

/** A color of the current light or dark theme. */
private fun View.themeColor(attribute: Int): Int {
    val array = context.obtainStyledAttributes(intArrayOf(attribute))
    return array.getColor(0, Color.GRAY).also { array.recycle() }
}

private fun View.sp(size: Float) = TypedValue.applyDimension(TypedValue.COMPLEX_UNIT_SP, size, resources.displayMetrics)

/** A square in which the user draws a digit: white on black, like the digits in the training data. */
class DrawView(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    /** The points of each stroke, x and y alternating, as fractions of the side: they stay valid after a rotation. */
    var strokes: List<List<Float>> = emptyList()
        set(value) {
            field = value
            invalidate()
        }

    /** Called when a stroke ends. */
    var onDrawn: () -> Unit = {}

    private val pen = Paint(Paint.ANTI_ALIAS_FLAG)
    private val hint = context.getString(R.string.draw_here)

    override fun onTouchEvent(event: MotionEvent): Boolean {
        val point = listOf((event.x / width).coerceIn(0f, 1f), (event.y / height).coerceIn(0f, 1f))
        when (event.actionMasked) {
            MotionEvent.ACTION_DOWN -> {
                parent.requestDisallowInterceptTouchEvent(true) // drawing must not scroll the page
                strokes = strokes.plusElement(point)
            }
            // A second finger may have cleared the strokes; then this is the first point of a new one.
            MotionEvent.ACTION_MOVE -> strokes = strokes.dropLast(1).plusElement(strokes.lastOrNull().orEmpty() + point)
            MotionEvent.ACTION_UP -> performClick()
            MotionEvent.ACTION_CANCEL -> strokes = strokes.dropLast(1) // the system took over the gesture
        }
        return true
    }

    override fun performClick(): Boolean {
        super.performClick()
        onDrawn()
        return true
    }

    override fun onDraw(canvas: Canvas) {
        draw(canvas, width.toFloat(), RectF(0f, 0f, 1f, 1f))
        if (strokes.isEmpty()) {
            pen.style = Paint.Style.FILL
            pen.color = Color.LTGRAY
            pen.textSize = sp(18f)
            pen.textAlign = Paint.Align.CENTER
            canvas.drawText(hint, width / 2f, height / 2f, pen)
        }
    }

    /** The drawing as pixels, cropped to the strokes with a margin, as in the training data; null if nothing is drawn. */
    fun pixels(): Pixels? {
        if (strokes.isEmpty()) return null
        val points = strokes.flatten()
        val xs = points.filterIndexed { i, _ -> i % 2 == 0 }
        val ys = points.filterIndexed { i, _ -> i % 2 == 1 }
        val side = maxOf(xs.max() - xs.min(), ys.max() - ys.min(), 0.1f) * 1.25f
        val left = (xs.max() + xs.min() - side) / 2
        val top = (ys.max() + ys.min() - side) / 2
        val bitmap = Bitmap.createBitmap(SIDE, SIDE, Bitmap.Config.ARGB_8888)
        draw(Canvas(bitmap), SIDE.toFloat(), RectF(left, top, left + side, top + side))
        return Images.toPixels(bitmap)
    }

    private fun draw(
        canvas: Canvas,
        side: Float,
        part: RectF
    ) {
        canvas.drawColor(Color.BLACK)
        pen.style = Paint.Style.STROKE
        pen.color = Color.WHITE
        pen.strokeWidth = side / 9
        pen.strokeCap = Paint.Cap.ROUND
        pen.strokeJoin = Paint.Join.ROUND
        for (stroke in strokes) {
            val path = Path()
            for (i in stroke.indices step 2) {
                val x = (stroke[i] - part.left) / part.width() * side
                val y = (stroke[i + 1] - part.top) / part.height() * side
                if (i == 0) path.moveTo(x, y) else path.lineTo(x, y)
            }
            if (stroke.size == 2) path.rLineTo(0.1f, 0f) // a dot
            canvas.drawPath(path, pen)
        }
    }

    private companion object {
        const val SIDE = 128
    }
}

/** The five best classes as bars, with a description for TalkBack. */
class BarsView(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    var scores: List<Score> = emptyList()
        set(value) {
            field = value.take(MAX_BARS)
            contentDescription = field.joinToString { resources.getString(R.string.bar, it.label, Math.round(100 * it.score)) }
            invalidate()
        }

    private val paint = TextPaint(Paint.ANTI_ALIAS_FLAG)
    private val textColor = themeColor(android.R.attr.textColorPrimary)
    private val accent = themeColor(android.R.attr.colorAccent)

    override fun onMeasure(
        widthSpec: Int,
        heightSpec: Int
    ) = setMeasuredDimension(MeasureSpec.getSize(widthSpec), (MAX_BARS * sp(ROW)).toInt())

    override fun onDraw(canvas: Canvas) {
        val row = sp(ROW)
        paint.textSize = sp(14f)
        val gap = sp(8f)
        val labelWidth = minOf(width / 3f, (scores.maxOfOrNull { paint.measureText(it.label) } ?: 0f) + gap)
        val percentWidth = paint.measureText("100 % ")
        scores.forEachIndexed { i, score ->
            paint.color = textColor
            val label = TextUtils.ellipsize(score.label, paint, labelWidth - gap, TextUtils.TruncateAt.END)
            canvas.drawText(label, 0, label.length, 0f, (i + 0.7f) * row, paint)
            canvas.drawText("${Math.round(100 * score.score)} %", width - percentWidth, (i + 0.7f) * row, paint)
            paint.color = accent
            val barWidth = 2 + (width - labelWidth - percentWidth - gap) * score.score
            canvas.drawRect(labelWidth, (i + 0.2f) * row, labelWidth + barWidth, (i + 0.8f) * row, paint)
        }
    }

    private companion object {
        const val MAX_BARS = 5
        const val ROW = 22f
    }
}

/** A histogram of latencies in milliseconds, up to the 99th percentile. */
class HistogramView(context: Context) : View(context) {
    var millis: List<Double> = emptyList()
        set(value) {
            field = value.sorted()
            invalidate()
        }

    private val paint = Paint(Paint.ANTI_ALIAS_FLAG)
    private val textColor = themeColor(android.R.attr.textColorSecondary)
    private val accent = themeColor(android.R.attr.colorAccent)

    override fun onMeasure(
        widthSpec: Int,
        heightSpec: Int
    ) = setMeasuredDimension(MeasureSpec.getSize(widthSpec), sp(HEIGHT).toInt())

    override fun onDraw(canvas: Canvas) {
        val low = millis.firstOrNull() ?: return
        val high = millis[(millis.size - 1) * 99 / 100]
        val counts = IntArray(BINS)
        for (value in millis) if (value <= high) counts[((value - low) / maxOf(high - low, 1e-9) * (BINS - 1)).toInt()]++
        paint.color = accent
        val step = width / BINS.toFloat()
        val baseline = height - sp(AXIS)
        counts.forEachIndexed { i, count ->
            canvas.drawRect(i * step, baseline * (1f - count.toFloat() / counts.max()), (i + 1) * step - 1, baseline, paint)
        }
        paint.color = textColor
        paint.textSize = sp(12f)
        canvas.drawText(formatTime(1e6 * low), 0f, height - sp(4f), paint)
        val maxLabel = formatTime(1e6 * high)
        canvas.drawText(maxLabel, width - paint.measureText(maxLabel), height - sp(4f), paint)
    }

    private companion object {
        const val BINS = 40
        const val HEIGHT = 82f
        const val AXIS = 18f
    }
}

/** Whether the screen is in landscape orientation. */
internal fun Context.landscape() = resources.configuration.orientation == Configuration.ORIENTATION_LANDSCAPE

/** Formats a time in nanoseconds for users. */
internal fun formatTime(ns: Double): String = if (ns < 1e6) "%.0f µs".format(ns / 1e3) else "%.2f ms".format(ns / 1e6)
