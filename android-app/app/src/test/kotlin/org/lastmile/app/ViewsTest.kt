package org.lastmile.app

import android.graphics.Bitmap
import android.graphics.Canvas
import android.view.View
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.lastmile.inference.Score

/** What the app's own views draw, pixel by pixel. */
class ViewsTest : OnScreen() {
    /** Whether something is drawn between these shares of the width and the height. */
    private fun View.drawn(
        x: ClosedFloatingPointRange<Float>,
        y: ClosedFloatingPointRange<Float>
    ): Boolean {
        measure(View.MeasureSpec.makeMeasureSpec(600, View.MeasureSpec.EXACTLY), View.MeasureSpec.UNSPECIFIED)
        layout(0, 0, measuredWidth, measuredHeight)
        val picture = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        draw(Canvas(picture))
        val rows = (y.start * height).toInt() until (y.endInclusive * height).toInt()
        val columns = (x.start * width).toInt() until (x.endInclusive * width).toInt()
        return rows.any { row -> columns.any { picture.getPixel(it, row) != 0 } }
    }

    @Test
    fun aLongLabelDoesNotReachItsBar() {
        val view = BarsView(start().get(), null)
        view.scores = listOf(Score("a label that is much longer than a third of the view", 0f, 0f))
        assertTrue(view.drawn(0f..0.3f, 0f..0.2f))
        assertEquals(false, view.drawn(0.35f..0.75f, 0f..0.2f))
    }

    @Test
    fun aHistogramHasItsEndsBelowIt() {
        val view = HistogramView(start().get())
        view.millis = List(99) { 1.0 } + 2.0 + 3.0
        assertTrue("the least", view.drawn(0f..0.1f, 0.85f..1f))
        assertTrue("the most", view.drawn(0.9f..1f, 0.85f..1f))
        assertEquals(false, view.drawn(0.4f..0.6f, 0.85f..1f))
    }
}
