package org.lastmile.app

import android.graphics.Bitmap
import android.graphics.Canvas
import android.view.View
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.lastmile.inference.Score

/** The pixels that the app's custom views draw. */
class ViewsTest : ScreenTestBase() {
    /** Whether anything is drawn in a region, given as fractions of the width and the height. */
    private fun View.isDrawn(
        x: ClosedFloatingPointRange<Float>,
        y: ClosedFloatingPointRange<Float>
    ): Boolean {
        measure(View.MeasureSpec.makeMeasureSpec(600, View.MeasureSpec.EXACTLY), View.MeasureSpec.UNSPECIFIED)
        layout(0, 0, measuredWidth, measuredHeight)
        val image = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        draw(Canvas(image))
        val rows = (y.start * height).toInt() until (y.endInclusive * height).toInt()
        val columns = (x.start * width).toInt() until (x.endInclusive * width).toInt()
        return rows.any { row -> columns.any { image.getPixel(it, row) != 0 } }
    }

    @Test
    fun aLongLabelDoesNotOverlapItsBar() {
        val view = BarsView(start().get(), null)
        view.scores = listOf(Score("a label that is much longer than a third of the view", 0f, 0f, 0))
        assertTrue(view.isDrawn(0f..0.3f, 0f..0.2f))
        assertEquals(false, view.isDrawn(0.35f..0.75f, 0f..0.2f))
    }

    @Test
    fun aHistogramIsLabeledWithItsMinimumAndMaximum() {
        val view = HistogramView(start().get())
        view.millis = List(99) { 1.0 } + 2.0 + 3.0
        assertTrue("minimum", view.isDrawn(0f..0.1f, 0.85f..1f))
        assertTrue("maximum", view.isDrawn(0.9f..1f, 0.85f..1f))
        assertEquals(false, view.isDrawn(0.4f..0.6f, 0.85f..1f))
    }
}
